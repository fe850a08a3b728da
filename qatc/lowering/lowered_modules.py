"""What each module of a trained graph becomes in the file: codes and scales as tensors, in operators that ONNX has.

What is quantized holds what the file does, and computes nothing by itself.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qatc.grid import Grid, dequantize
from qatc.lowering.sub_pixel import SubPixel
from qatc.lowering.weights import Weights
from qatc.modules.fused import Folded, Fused
from qatc.modules.kinds import pad_widths
from qatc.quantizers import Quantizer, representable
from qatc.quantizers.fake_quantize import bias_codes, snap
from qatc.targets import Target


class LoweredQuantizer(nn.Module):
    """QuantizeLinear and DequantizeLinear of one tensor.

    Its codes are limited to those of `limits` if there are any, and then arranged: phases are put side by side, or the
    zero point is put around them.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        quantizer: Quantizer,
        target: Target,
        limits: tuple[float, float] | None = None,
        arrange: "SubPixel | PaddedCodes | None" = None,
    ) -> None:
        super().__init__()
        self.spec, self.arrange = quantizer.spec, arrange
        spec = self.spec
        scale, zero_point = quantizer.checked_grid(torch.empty(0))
        self.register_buffer("scale", scale.float().clone())
        self.register_buffer("zero_point", zero_point.to(spec.dtype))
        self.bits = spec.bits
        self.native = spec.bits <= 4 and "activations" in target.file.native and arrange is None
        partial = spec.bits < (4 if self.native else spec.storage_bits)
        # ONNX Runtime's Clip takes 8 bits, not 16.
        self.clip_codes = (partial or limits is not None) and target.file.low_bits == "clip_codes" and spec.bits <= 8
        self.limits: tuple[float, float] | None = None
        if self.clip_codes:
            ends = torch.tensor(limits or (-math.inf, math.inf))
            low, high = quantizer.codes(ends).to(spec.dtype)
            self.register_buffer("low", low.clone())
            self.register_buffer("high", high.clone())
        elif partial:
            self.limits = representable(quantizer)


@dataclass(frozen=True)
class PaddedCodes:
    """A pad with zeros, of codes: with the zero point. The widths are of the last dimension first."""

    widths: tuple[int, ...]
    zero: int

    @classmethod
    def of(cls, pad: nn.Module, quantizer: Quantizer) -> "PaddedCodes":
        """Return what a pad does to the codes of a quantizer."""
        return cls(pad_widths(pad), int(quantizer.checked_grid(torch.empty(0)).zero_point))


class LoweredLayer(nn.Module):
    """A layer with quantized weight: DequantizeLinear of its codes, of its bias where the target wants that, the op.

    Its weight is codes, or values on their grid (`float_weight`), which QuantizeLinear makes codes of; `native` ones
    are of one of ONNX's 4-bit types, and `clipped` ones say with a Clip how many bits they have.
    """

    weight: Tensor
    weight_codes: Tensor
    weight_low: Tensor
    weight_high: Tensor
    weight_scale: Tensor
    weight_zero_point: Tensor
    bias_codes: Tensor
    bias_scale: Tensor
    bias_zero_point: Tensor
    bias: Tensor

    def __init__(self, layer: Fused, weights: Weights, target: Target) -> None:
        super().__init__()
        self.layer = [layer]  # in a list, since its float parameters are not part of the file
        spec, file = weights.spec, target.file
        self.weight_spec = spec
        self.axis, self.channels = spec.axis or 0, len(weights.codes)
        self.activation = layer.activation
        self.bits = spec.bits
        self.native = spec.bits <= 4 and "weights" in file.native
        self.clipped = spec.bits < spec.storage_bits and "qcdq" in file.sub_byte
        self.float_weight = file.weights == "float"
        scale = weights.scale.float().clone()
        if self.float_weight:
            self.register_buffer("weight", dequantize(weights.codes, Grid(scale, torch.zeros_like(scale)), spec))
        else:
            self.register_buffer("weight_codes", weights.codes.to(spec.dtype))
        if self.clipped:
            self.register_buffer("weight_low", torch.tensor(spec.qmin, dtype=spec.dtype))
            self.register_buffer("weight_high", torch.tensor(spec.qmax, dtype=spec.dtype))
        self.register_buffer("weight_scale", scale)
        self.register_buffer("weight_zero_point", torch.zeros(scale.shape, dtype=spec.dtype))
        self.int32_bias = file.bias == "int32" and weights.bias_step is not None
        if weights.bias_step is not None and self.int32_bias:
            assert weights.bias is not None
            step = weights.bias_step.float().expand(weights.bias.shape).clone()
            self.register_buffer("bias_codes", bias_codes(weights.bias, step).to(torch.int32))
            self.register_buffer("bias_scale", step)
            self.register_buffer("bias_zero_point", torch.zeros(step.shape, dtype=torch.int32))
        else:
            bias, grid_step = weights.bias, weights.bias_step
            self.register_buffer("bias", bias if bias is None or grid_step is None else snap(bias, grid_step))


class LoweredBatchNorm(LoweredLayer):
    """A multiply-add per channel as a depthwise convolution, which runtimes have in integers.

    Of its kernel only the centre is not zero; it is wider than that where the target has no kernel of one position.
    """

    def __init__(self, layer: Fused, weights: Weights, target: Target, rank: int) -> None:
        self.rank = rank
        places = max(rank, 3) - 2
        self.border = target.file.batch_norm_kernel // 2
        centre = weights.codes.view(-1, *[1] * (places + 1))
        super().__init__(layer, weights._replace(codes=F.pad(centre, [self.border] * (2 * places))), target)


class LoweredSubPixel(LoweredLayer):
    """A transposed convolution as one whose channels are phases; the quantizer behind it puts them side by side."""

    def __init__(self, layer: Fused, weights: Weights, target: Target, form: SubPixel) -> None:
        super().__init__(layer, form.weights(weights), target)
        self.form = form


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
        y = x.mean(tuple(range(2, x.dim())), keepdim=True)
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


class ReadsApart(nn.Module):
    """A float op that reads its input behind one that changes nothing: the runtime takes no grid past it."""

    def __init__(self, op: nn.Module) -> None:
        super().__init__()
        self.op = op

    def forward(self, x: Tensor, *inputs: Tensor, **sizes: Any) -> Tensor:
        """Return the op's output."""
        y: Tensor = self.op(unchanged(x), *inputs, **sizes)
        return y


def unchanged(y: Tensor) -> Tensor:
    """Return y behind an op that changes nothing, and that no optimizer removes."""
    return F.leaky_relu(y, 1.0)
