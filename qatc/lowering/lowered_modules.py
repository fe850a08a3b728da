"""What each module of a trained graph becomes in the file: codes and scales as tensors, in operators that ONNX has."""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qatc.lowering import onnx_ops
from qatc.modules.fused import Folded, Fused
from qatc.modules.kinds import pad_widths
from qatc.quantizers import Quantizer
from qatc.quantizers.fake_quantize import bias_codes, snap
from qatc.quantizers.grid import codes, dequantize
from qatc.spec import QuantSpec
from qatc.targets import Target


class LoweredQuantizer(nn.Module):
    """QuantizeLinear and DequantizeLinear of one tensor.

    Its codes are limited to those of `limits` if there are any, and moved to other places by `arrange`, which is given
    sizes that the network computes.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        quantizer: Quantizer,
        target: Target,
        limits: tuple[float, float] | None = None,
        arrange: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        spec, self.arrange = quantizer.spec, arrange
        scale, zero_point = quantizer.checked_grid(torch.empty(0))
        self.register_buffer("scale", scale.float().clone())
        self.register_buffer("zero_point", zero_point.to(spec.dtype))
        self.clip_codes = (spec.bits < 8 or limits is not None) and target.file.low_bits == "clip_codes"
        self.limits: tuple[float, float] | None = None
        if self.clip_codes:
            ends = torch.tensor(limits or (-math.inf, math.inf))
            low, high = quantizer.codes(ends).to(spec.dtype)
            self.register_buffer("low", low.clone())
            self.register_buffer("high", high.clone())
        elif spec.bits < 8:
            self.limits = representable(quantizer)

    def forward(self, x: Tensor, **sizes: Any) -> Tensor:
        """Return x on its grid."""
        if self.limits is not None:
            x = torch.clamp(x, *self.limits)
        code: Tensor = onnx_ops.quantize(x, self.scale, self.zero_point)
        if self.clip_codes:
            code = onnx_ops.clip_codes(code, self.low, self.high)
        if self.arrange is not None:
            code = self.arrange(code, **sizes)
        result: Tensor = onnx_ops.dequantize(code, self.scale, self.zero_point, 1)
        return result


class PaddedCodes:
    """A pad with zeros, of codes: with the zero point."""

    def __init__(self, pad: nn.Module, quantizer: Quantizer) -> None:
        self.widths = pad_widths(pad)
        self.zero = float(quantizer.checked_grid(torch.empty(0)).zero_point)

    def __call__(self, codes: Tensor, pad: Any = None) -> Tensor:
        """Return the codes with their border, of the pad's own widths or of those given."""
        return F.pad(codes, self.widths if pad is None else pad, value=self.zero)


def representable(quantizer: Quantizer) -> tuple[float, float]:
    """Return the least and greatest value on a tensor's grid."""
    grid, spec = quantizer.checked_grid(torch.empty(0)), quantizer.spec
    low, high = (dequantize(torch.tensor(float(code)), grid, spec) for code in (spec.qmin, spec.qmax))
    return float(low), float(high)


class Weights(NamedTuple):
    """A layer's weight as codes with their grid, its float bias, and the step of that bias's codes if it has a grid."""

    codes: Tensor
    scale: Tensor
    spec: QuantSpec
    bias: Tensor | None
    bias_step: Tensor | None


def weights_of(layer: Fused, folded: Folded, grid: Quantizer | None) -> Weights:
    """Return what the layer computes with in eval mode: the simulation's own weight codes and bias."""
    quantizer = layer.weight_quantizer
    assert quantizer is not None
    floor = layer.least_scale(folded.bias, grid)
    weight_grid = quantizer.checked_grid(folded.weight, folded.gain, floor)
    code = codes(folded.weight.detach(), weight_grid, quantizer.spec)
    bias = None if folded.bias is None else folded.bias.detach()
    step = None if grid is None or bias is None else layer.bias_step(folded.weight, folded.gain, floor, grid)
    return Weights(code, weight_grid.scale, quantizer.spec, bias, step)


class LoweredLayer(nn.Module):
    """A layer with quantized weight: DequantizeLinear of its codes, of its bias where the target wants that, the op."""

    weight_codes: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    bias_codes: Tensor
    bias_scale: Tensor
    bias_zero_point: Tensor
    bias: Tensor

    def __init__(self, layer: Fused, weights: Weights, target: Target) -> None:
        super().__init__()
        self.layer = [layer]  # in a list, since its float parameters are not part of the file
        self.axis = weights.spec.axis or 0
        self.activation = layer.activation
        self.register_buffer("weight_codes", weights.codes.to(weights.spec.dtype))
        self.register_buffer("weight_scale", weights.scale.float().clone())
        self.register_buffer("weight_zero_point", torch.zeros(weights.scale.shape, dtype=weights.spec.dtype))
        self.int32_bias = target.file.bias == "int32" and weights.bias_step is not None
        if weights.bias_step is not None and self.int32_bias:
            assert weights.bias is not None
            step = weights.bias_step.float().expand(weights.bias.shape).clone()
            self.register_buffer("bias_codes", bias_codes(weights.bias, step).to(torch.int32))
            self.register_buffer("bias_scale", step)
            self.register_buffer("bias_zero_point", torch.zeros(step.shape, dtype=torch.int32))
        else:
            bias, grid_step = weights.bias, weights.bias_step
            self.register_buffer("bias", bias if bias is None or grid_step is None else snap(bias, grid_step))

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        """Return the layer's output."""
        y = self.compute(x, self.dequantized_weight(), self.dequantized_bias(), output_size)
        return y if self.activation is None else self.activation(y)

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Any = None) -> Tensor:
        """Apply the torch layer."""
        return self.layer[0].compute(x, weight, bias, output_size)

    def dequantized_weight(self) -> Tensor:
        """Return the float weight of the codes."""
        weight: Tensor = onnx_ops.dequantize(self.weight_codes, self.weight_scale, self.weight_zero_point, self.axis)
        return weight

    def dequantized_bias(self) -> Tensor | None:
        """Return the float bias, on its grid."""
        if not self.int32_bias:
            return self.bias
        bias: Tensor = onnx_ops.dequantize(self.bias_codes, self.bias_scale, self.bias_zero_point, 0)
        return bias


# By the number of dimensions of what they read.
CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}


class LoweredBatchNorm(LoweredLayer):
    """A multiply-add per channel as a depthwise convolution of one position, which runtimes have in integers."""

    def __init__(self, layer: Fused, weights: Weights, target: Target, rank: int) -> None:
        channels = len(weights.codes)
        convolved = max(rank, 3)
        shaped = weights.codes.view(channels, *[1] * (convolved - 1))
        super().__init__(layer, weights._replace(codes=shaped), target)
        self.channels, self.without_positions = channels, rank == 2
        self.convolve = CONVOLUTIONS[convolved]

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Any = None) -> Tensor:
        """Convolve each channel with its factor; [N, C] as of one position."""
        y = self.convolve(x.unsqueeze(-1) if self.without_positions else x, weight, bias, groups=self.channels)
        return y.squeeze(-1) if self.without_positions else y


class FloatLayer(nn.Module):
    """A layer left in float, its BatchNorm folded in."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: Fused, folded: Folded) -> None:
        super().__init__()
        weight, bias, _ = folded
        self.guarded = False
        self.layer = [layer]
        self.activation = layer.activation
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        """Return the layer's output."""
        y = self.layer[0].compute(x, self.weight, self.bias, output_size)
        if self.guarded:
            y = unchanged(y)
        return y if self.activation is None else self.activation(y)


class FloatMultiplyAdd(FloatLayer):
    """A BatchNorm left in float: constants already in the shape that broadcasts."""

    def __init__(self, layer: Fused, rank: int) -> None:
        super().__init__(layer, layer.fold(None))
        shape = (1, -1, *[1] * (rank - 2))
        self.weight, self.bias = self.weight.view(shape), self.bias.view(shape)

    def forward(self, x: Tensor, output_size: Any = None) -> Tensor:
        """Return x * weight + bias."""
        y = x * self.weight + self.bias
        return y if self.activation is None else self.activation(y)


class GlobalAveragePool(nn.Module):
    """The mean over all positions, with or without the dimensions of size 1 that it leaves."""

    def __init__(self, keepdim: bool) -> None:
        super().__init__()
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, C, 1, ...], or [N, C]."""
        y: Tensor = onnx_ops.global_average_pool(x)
        return y if self.keepdim else torch.flatten(y, 1)


class SumPool(nn.Module):
    """An average pool with a divisor of its own, which ONNX does not have: the mean, scaled."""

    def __init__(self, pool: nn.AvgPool2d | nn.AvgPool3d) -> None:
        super().__init__()
        assert pool.divisor_override is not None
        self.pool = copy.copy(pool)
        self.pool.divisor_override, self.pool.count_include_pad = None, True
        sizes = pool.kernel_size
        window = sizes ** (2 if isinstance(pool, nn.AvgPool2d) else 3) if isinstance(sizes, int) else math.prod(sizes)
        self.factor = window / pool.divisor_override

    def forward(self, x: Tensor) -> Tensor:
        """Return the sums divided by the divisor."""
        y: Tensor = self.pool(x) * self.factor
        return y


class Guarded(nn.Module):
    """A float op, and one behind it that changes nothing: the runtime would run it in integers otherwise."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op = op

    def forward(self, *inputs: Tensor, **sizes: Any) -> Tensor:
        """Return the op's output."""
        return unchanged(self.op(*inputs, **sizes))


def unchanged(y: Tensor) -> Tensor:
    """Return y behind an op that changes nothing, and that no optimizer removes."""
    return F.leaky_relu(y, 1.0)
