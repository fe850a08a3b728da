"""Layers with weights as they train and as they deploy: [BatchNorm folded in,] weight and bias quantized, activation.

Each is a subclass of its torch layer and keeps that layer's parameters under their own names. What belongs to other
modules arrives as an argument, so the graph shows it: the BatchNorm (`bn`), and the quantizer of the input (`grid`),
which with the weight's scale gives the grid of the bias.
"""

from typing import Any, NamedTuple, TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qatc.errors import QatcError
from qatc.quantizers.base import Quantizer
from qatc.quantizers.fake_quantize import bias_codes, snap
from qatc.quantizers.grid import BIAS_CODES, codes, per_channel

BatchNorm = nn.modules.batchnorm._BatchNorm
T = TypeVar("T", bound="Fused")


class Folded(NamedTuple):
    """A layer with its BatchNorm folded in: float weight and bias, and the factor [channels] that the weight got."""

    weight: Tensor
    bias: Tensor | None
    gain: Tensor | None


def bn_factor(bn: BatchNorm) -> Tensor:
    """Return gamma / sqrt(running variance + eps), [channels], float32; gradients reach gamma."""
    assert bn.running_var is not None
    factor = torch.rsqrt(bn.running_var.float() + bn.eps)
    return factor if bn.weight is None else bn.weight.float() * factor


class Fused(nn.Module):
    """Behaviour that the fused layers share; mixed into a torch layer."""

    channel_axis = 0
    output_axis = 1
    weight: Any  # a Tensor; torch's layers declare theirs in ways that a mixin cannot repeat
    bias: Any  # a Tensor or None

    def become(self) -> None:
        """Add what fusion needs to a module that already is its torch layer."""
        self.activation: nn.Module | None = None
        self.weight_quantizer: Quantizer | None = None
        self.bn_frozen = False

    @classmethod
    def from_float(cls: type[T], layer: nn.Module) -> T:
        """Return the fused form of a torch layer; parameters are shared, the layer is untouched."""
        made = cls.__new__(cls)
        made.__dict__ = layer.__dict__.copy()
        for key in ("_parameters", "_buffers", "_modules"):
            made.__dict__[key] = dict(layer.__dict__[key])
        made.become()
        return made

    def forward(self, x: Tensor, bn: BatchNorm | None = None, grid: Quantizer | None = None) -> Tensor:
        """Return the layer's output; batch statistics while training and not frozen, running ones otherwise."""
        if bn is not None and self.training and not self.bn_frozen:
            y = bn(self.compute(x, self.unfolded_weight(bn), self.bias))
        elif self.runs_on_codes(grid):
            y = self.on_codes(x, bn, grid)
        else:
            weight, bias = self.deployed(bn, grid)
            y = self.compute(x, weight, bias)
        return self.activated(y)

    def activated(self, y: Tensor) -> Tensor:
        """Return y behind the fused activation."""
        result: Tensor = y if self.activation is None else self.activation(y)
        return result

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the torch layer with another weight and bias."""
        raise NotImplementedError

    def fold(self, bn: BatchNorm | None) -> Folded:
        """Return weight and bias with the running statistics folded in."""
        if bn is None:
            return Folded(self.weight, self.bias, None)
        factor = bn_factor(bn)
        assert bn.running_mean is not None
        mean = bn.running_mean if self.bias is None else bn.running_mean - self.bias
        bias = -mean * factor if bn.bias is None else bn.bias - mean * factor
        weight = self.weight * per_channel(factor, self.weight, self.channel_axis)
        return Folded(weight, bias, factor.abs())

    def unfolded_weight(self, bn: BatchNorm) -> Tensor:
        """Return the weight whose convolution, batch-normalized, is that of the quantized folded weight.

        It is quantized as it will deploy and divided by the factor again: one convolution, and BatchNorm stays itself
        (the one-convolution form of MindSpore's BatchNorm folding, without its division of the activations).
        """
        quantizer = self.weight_quantizer
        weight: Tensor = self.weight
        if quantizer is None or not quantizer.enabled:
            return weight
        folded = self.fold(bn)
        factor = per_channel(bn_factor(bn), self.weight, self.channel_axis)
        # A channel whose factor is zero (a gamma begun there) keeps its float weight: the statistics follow its
        # convolution, and without them gamma would never move.
        zero = factor == 0
        quantized = quantizer(folded.weight, gain=folded.gain)
        return torch.where(zero, weight, quantized / factor.masked_fill(zero, 1.0))

    def deployed(self, bn: BatchNorm | None, grid: Quantizer | None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias as the lowered file will hold them, in float."""
        weight, bias, gain = self.fold(bn)
        quantizer = self.weight_quantizer
        if quantizer is None or not quantizer.enabled:
            return weight, bias
        floor = self.least_scale(bias, grid)
        quantized = quantizer(weight, gain=gain, floor=floor)
        if bias is None or floor is None:
            return quantized, bias
        return quantized, snap(bias, self.bias_step(weight, gain, floor, grid))

    def runs_on_codes(self, grid: Quantizer | None) -> TypeGuard[Quantizer]:
        """Say whether this call only evaluates, with everything quantized."""
        quantizer = self.weight_quantizer
        if self.training or torch.is_grad_enabled() or quantizer is None or not quantizer.enabled or grid is None:
            return False
        return quantizer.ready and grid.ready and grid.enabled and not grid.recording

    def on_codes(self, x: Tensor, bn: BatchNorm | None, grid: Quantizer) -> Tensor:
        """Return the layer's output before the activation, summed over integer codes as a device does.

        Sums of codes are exact in float32 below 2**24, whatever the order of summation, so an evaluation gives the same
        bits on every machine; only one product with the step rounds.
        """
        weight, bias, gain = self.fold(bn)
        assert self.weight_quantizer is not None
        spec = self.weight_quantizer.spec
        weight_grid = self.weight_quantizer.grid(weight, gain, self.least_scale(bias, grid))
        scale = self.input_scale(grid)
        with torch.autocast(x.device.type, enabled=False):
            total = self.compute(torch.round(x.float() / scale), codes(weight, weight_grid, spec), None)
        step = weight_grid.scale * scale
        if bias is not None:
            total = total + per_channel(bias_codes(bias, step), total, self.output_axis)
        return (total * per_channel(step, total, self.output_axis)).to(x.dtype)

    def least_scale(self, bias: Tensor | None, grid: Quantizer | None) -> Tensor | None:
        """Return the weight scale below which the bias would not fit 32 bits; None where there is no bias grid."""
        if bias is None or grid is None or not grid.ready or not grid.enabled or grid.recording:
            return None
        least = bias.detach().float().abs() / (BIAS_CODES * self.input_scale(grid))
        assert self.weight_quantizer is not None
        return least if self.weight_quantizer.spec.axis is not None else least.max()

    def bias_step(self, weight: Tensor, gain: Tensor | None, floor: Tensor | None, grid: Quantizer | None) -> Tensor:
        """Return the bias's step, float32(scale_x * scale_w), [channels] or 0-d."""
        assert self.weight_quantizer is not None
        assert grid is not None
        return self.weight_quantizer.grid(weight.detach(), gain, floor).scale.detach() * self.input_scale(grid)

    @staticmethod
    def input_scale(grid: Quantizer) -> Tensor:
        """Return the scale of the input's grid, 0-d."""
        return grid.grid(torch.empty(0), None, None).scale.detach()


class FusedConv1d(Fused, nn.Conv1d):
    """Conv1d [+ BatchNorm][+ activation]."""

    output_axis = -2

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve, with the layer's own padding mode."""
        y: Tensor = self._conv_forward(x, weight, bias)
        return y


class FusedConv2d(Fused, nn.Conv2d):
    """Conv2d [+ BatchNorm][+ activation]."""

    output_axis = -3

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve, with the layer's own padding mode."""
        y: Tensor = self._conv_forward(x, weight, bias)
        return y


class FusedConv3d(Fused, nn.Conv3d):
    """Conv3d [+ BatchNorm][+ activation]."""

    output_axis = -4

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve, with the layer's own padding mode."""
        y: Tensor = self._conv_forward(x, weight, bias)
        return y


class FusedLinear(Fused, nn.Linear):
    """Linear [+ BatchNorm][+ activation]."""

    output_axis = -1

    def forward(self, x: Tensor, bn: BatchNorm | None = None, grid: Quantizer | None = None) -> Tensor:
        """Return the layer's output; a BatchNorm is of its channels only where they are dimension 1."""
        if bn is not None and x.dim() != 2:
            raise QatcError(
                f"a BatchNorm was fused to a Linear, which now reads {tuple(x.shape)}",
                remedy="give qatc.prepare example_inputs: it then leaves such a BatchNorm on its own",
            )
        return super().forward(x, bn, grid)

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply over the last dimension."""
        return F.linear(x, weight, bias)


class FusedBatchNorm(Fused, BatchNorm):
    """A BatchNorm with nothing to fold into: while training itself, then a multiply-add per channel.

    Its weight is the BatchNorm's factor, so quantizing it per channel loses nothing.
    """

    def forward(self, x: Tensor, bn: Any = None, grid: Quantizer | None = None) -> Tensor:
        """Return the normalized input; batch statistics while training and not frozen."""
        if self.training and not self.bn_frozen:
            y = nn.modules.batchnorm._BatchNorm.forward(self, x)
        elif self.runs_on_codes(grid):
            y = self.on_codes(x, None, grid)
        else:
            y = self.compute(x, *self.deployed(None, grid))
        return self.activated(y)

    def fold(self, bn: BatchNorm | None) -> Folded:
        """Return the multiply-add that the running statistics make."""
        factor = bn_factor(self)
        assert self.running_mean is not None
        shift = -self.running_mean * factor
        return Folded(factor, shift if self.bias is None else self.bias + shift, None)

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply and add per channel (dimension 1)."""
        y = x * per_channel(weight, x, 1)
        return y if bias is None else y + per_channel(bias, x, 1)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"a BatchNorm takes [N, C, ...], not {tuple(input.shape)}")


FUSED_FORMS: dict[type[nn.Module], type[Fused]] = {
    nn.Conv1d: FusedConv1d, nn.Conv2d: FusedConv2d, nn.Conv3d: FusedConv3d, nn.Linear: FusedLinear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: FusedLinear,  # what nn.MultiheadAttention ends in
    nn.BatchNorm1d: FusedBatchNorm, nn.BatchNorm2d: FusedBatchNorm, nn.BatchNorm3d: FusedBatchNorm,
}  # fmt: skip


def fused_form(layer: nn.Module) -> Fused | None:
    """Return the layer as its fused form (itself if it is one), or None for a kind that has none."""
    if isinstance(layer, Fused):
        return layer
    form = FUSED_FORMS.get(type(layer))
    return None if form is None else form.from_float(layer)
