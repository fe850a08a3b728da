"""Layers with weights as they train and as they deploy: [BatchNorm folded in,] weight and bias quantized, activation.

Each is a subclass of its torch layer and keeps that layer's parameters under their own names. What belongs to other
modules arrives as an argument, so the graph shows it: the BatchNorm (`bn`), and the quantizer of the input (`grid`),
which with the weight's scale gives the grid of the bias. So do the weight and bias of what the model wrote as a
function (`weight`, `bias`): such a layer has no parameters of its own.
"""

from typing import Any, NamedTuple, TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qatc.compiled import as_it_is_now
from qatc.errors import QatcError
from qatc.grid import Grid, least_scale, per_channel
from qatc.modules.batch_norms import AnyBatchNorm, BatchNorm, StaysInEval
from qatc.modules.bn_modes import DEFAULT, train
from qatc.modules.bn_modes.call import LayerCall
from qatc.modules.clips import is_left
from qatc.quantizers.base import Quantizer
from qatc.quantizers.fake_quantize import bias_codes

T = TypeVar("T", bound="Fused")


class Folded(NamedTuple):
    """A layer with its BatchNorm folded in: float weight and bias, and the factor [channels] that the weight got."""

    weight: Tensor
    bias: Tensor | None
    gain: Tensor | None


def bn_factor(bn: BatchNorm) -> Tensor:
    """Return gamma / sqrt(running variance + eps), [channels], float32; gradients reach gamma."""
    assert bn.running_var is not None
    factor = torch.rsqrt(as_it_is_now(bn.running_var).float() + bn.eps)
    return factor if bn.weight is None else bn.weight.float() * factor


class Fused(nn.Module):
    """Behaviour that the fused layers share; mixed into a torch layer."""

    channel_axis = 0
    output_axis = 1
    bn_mode = DEFAULT  # how it trains on batch statistics
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

    @classmethod
    def without_parameters(cls: type[T], layer: nn.Module) -> T:
        """Return the fused form of a torch layer, to be given weight and bias at every call."""
        made = cls.from_float(layer)
        made._parameters = dict.fromkeys(made._parameters)
        return made

    def forward(
        self,
        x: Tensor,
        bn: BatchNorm | None = None,
        grid: Quantizer | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        output_size: Any = None,
        then: Quantizer | None = None,
    ) -> Tensor:
        """Return the layer's output, by the weight and bias given or its own.

        Batch statistics while the BatchNorm uses them and is not frozen here, running ones otherwise. `output_size` is
        what a transposed convolution takes; `then` the quantizer that alone reads the output.
        """
        if bn is not None and bn.training and not self.bn_frozen:
            y = train(self.bn_mode, self, LayerCall(x, bn, grid, weight, bias, output_size))
        else:
            folded = self.fold(bn, weight, bias)
            if self.runs_on_codes(grid):
                y = self.on_codes(x, folded, grid, output_size)
            else:
                y = self.compute(x, *self.deployed(folded, grid), output_size)
        return self.activated(y, then)

    def activated(self, y: Tensor, then: Quantizer | None) -> Tensor:
        """Return y behind the fused activation, which may be left to the quantizer behind."""
        if then is not None and self._forward_hooks:
            return self.activated(y, None).view_as(y)  # a quantizer does not write over a view
        if self.activation is None or is_left(self.activation, then):
            return y
        result: Tensor = self.activation(y)
        return result

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Any = None) -> Tensor:
        """Apply the torch layer with another weight and bias; each layer defines its own."""
        raise NotImplementedError

    def own(self, weight: Tensor | None, bias: Tensor | None) -> Folded:
        """Return the weight and bias given, or the layer's own where none are."""
        return Folded(self.weight if weight is None else weight, self.bias if bias is None else bias, None)

    def over_weight(self, factor: Tensor, weight: Tensor) -> Tensor:
        """Return a factor per output channel, [channels], shaped to broadcast over the weight."""
        return per_channel(factor, weight, self.channel_axis)

    @property
    def weight_axis(self) -> int | None:
        """The axis of the weight along which each output channel can have a scale of its own; None if there is none."""
        return self.channel_axis

    def fold(self, bn: BatchNorm | None, weight: Tensor | None = None, bias: Tensor | None = None) -> Folded:
        """Return weight and bias with the running statistics folded in."""
        own = self.own(weight, bias)
        if bn is None:
            return own
        factor = bn_factor(bn)
        assert bn.running_mean is not None
        mean = bn.running_mean if own.bias is None else bn.running_mean - own.bias
        shift = -mean * factor if bn.bias is None else bn.bias - mean * factor
        return Folded(own.weight * self.over_weight(factor, own.weight), shift, factor.abs())

    def unfolded_weight(self, bn: BatchNorm, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return the weight whose convolution, batch-normalized, is that of the quantized folded weight.

        It is quantized as it will deploy and divided by the factor again: one convolution, and BatchNorm stays itself
        (the one-convolution form of MindSpore's BatchNorm folding, without its division of the activations).
        """
        quantizer = self.weight_quantizer
        plain: Tensor = self.own(weight, bias).weight
        if quantizer is None or not quantizer.enabled:
            return plain
        if not quantizer.acts:
            passed: Tensor = quantizer.passed(plain)
            return passed
        if quantizer.follows_channels:
            quantized: Tensor = quantizer(plain)
            return quantized
        folded = self.fold(bn, weight, bias)
        factor = self.over_weight(bn_factor(bn), plain)
        # A channel whose factor is zero (a gamma begun there) keeps its float weight: the statistics follow its
        # convolution, and without them gamma would never move.
        zero = factor == 0
        return torch.where(zero, plain, quantizer(folded.weight, gain=folded.gain) / factor.masked_fill(zero, 1.0))

    def deployed(self, folded: Folded, grid: Quantizer | None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias as the lowered file will hold them, in float."""
        weight, bias, gain = folded
        quantizer = self.weight_quantizer
        if quantizer is None or not quantizer.enabled:
            return weight, bias
        if not quantizer.acts:
            return quantizer.passed(weight), bias
        if bias is None or grid is None or not grid.quantizes or not quantizer.quantizes:
            return quantizer(weight, gain=gain, floor=self.least_scale(bias, grid)), bias
        return quantizer.with_bias(weight, bias, self.input_scale(grid), gain)

    def runs_on_codes(self, grid: Quantizer | None) -> TypeGuard[Quantizer]:
        """Say whether this call only evaluates, with everything quantized."""
        quantizer = self.weight_quantizer
        if self.training or torch.is_grad_enabled() or quantizer is None or grid is None:
            return False
        return quantizer.quantizes and grid.quantizes

    def on_codes(self, x: Tensor, folded: Folded, grid: Quantizer, output_size: Any = None) -> Tensor:
        """Return the layer's output before the activation, summed over integer codes as a device does.

        Sums of codes are exact in float32 below 2**24, whatever the order of summation, so an evaluation gives the same
        bits on every machine; only one product with the step rounds. Codes of more than 8 bits are summed in float64.
        """
        weight, bias, gain = folded
        assert self.weight_quantizer is not None
        weight_grid = self.weight_quantizer.grid(weight, gain, self.least_scale(bias, grid))
        code = self.weight_quantizer.codes_on(weight_grid, weight, gain)
        scale = self.input_scale(grid)
        exact = torch.float32 if max(grid.spec.bits, self.weight_quantizer.spec.bits) <= 8 else torch.float64
        with torch.autocast(x.device.type, enabled=False):
            total = self.compute(torch.round(x.float() / scale).to(exact), code.to(exact), None, output_size)
        step = weight_grid.scale * scale
        if bias is not None:
            total = total + per_channel(bias_codes(bias, step), total, self.output_axis)
        return (total * per_channel(step, total, self.output_axis)).to(x.dtype)

    def least_scale(self, bias: Tensor | None, grid: Quantizer | None) -> Tensor | None:
        """Return the weight scale below which the bias would not fit 32 bits; None where there is no bias grid."""
        if bias is None or grid is None or not grid.quantizes:
            return None
        assert self.weight_quantizer is not None
        return least_scale(bias, self.input_scale(grid), self.weight_quantizer.spec)

    def bias_step(self, weight_grid: Grid, grid: Quantizer) -> Tensor:
        """Return the bias's step, float32(scale_x * scale_w), [channels] or 0-d."""
        return weight_grid.scale.detach() * self.input_scale(grid)

    @staticmethod
    def input_scale(grid: Quantizer) -> Tensor:
        """Return the scale of the input's grid, 0-d."""
        return grid.grid(torch.empty(0), None, None).scale.detach()


class FusedConv(Fused):
    """What the convolutions share."""

    _conv_forward: Any

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Any = None) -> Tensor:
        """Convolve, with the layer's own padding mode."""
        y: Tensor = self._conv_forward(x, weight, bias)
        return y


class FusedConv1d(FusedConv, nn.Conv1d):
    """Conv1d [+ BatchNorm][+ activation]."""

    output_axis = -2


class FusedConv2d(FusedConv, nn.Conv2d):
    """Conv2d [+ BatchNorm][+ activation]."""

    output_axis = -3


class FusedConv3d(FusedConv, nn.Conv3d):
    """Conv3d [+ BatchNorm][+ activation]."""

    output_axis = -4


class FusedLinear(Fused, nn.Linear):
    """Linear [+ BatchNorm][+ activation]."""

    output_axis = -1

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Any = None) -> Tensor:
        """Multiply over the last dimension."""
        if x.dim() < 3 or not torch.is_grad_enabled():
            return F.linear(x, weight, bias)
        # As F.linear does it, but for how autograd sees it: not as a view, so that a quantizer may write over it.
        y = F.linear(x.flatten(0, -2), weight, bias)
        unflattened: Tensor = torch.ops.aten._unsafe_view(y, [*x.shape[:-1], y.shape[-1]])
        return unflattened

    def forward(
        self,
        x: Tensor,
        bn: BatchNorm | None = None,
        grid: Quantizer | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        output_size: Any = None,
        then: Quantizer | None = None,
    ) -> Tensor:
        """Return the layer's output; a BatchNorm is of its channels only where they are dimension 1."""
        if bn is not None and x.dim() != 2:
            raise QatcError(
                f"a BatchNorm was fused to a Linear, which now reads {tuple(x.shape)}",
                remedy="give qatc.prepare example_inputs: it then leaves such a BatchNorm on its own",
            )
        return super().forward(x, bn, grid, weight, bias, then=then)


class FusedBatchNorm(Fused, AnyBatchNorm):
    """A BatchNorm with nothing to fold into: while training itself, then a multiply-add per channel.

    Its weight is the BatchNorm's factor, so quantizing it per channel loses nothing.
    """

    def forward(
        self,
        x: Tensor,
        bn: BatchNorm | None = None,
        grid: Quantizer | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        output_size: Any = None,
        then: Quantizer | None = None,
    ) -> Tensor:
        """Return the normalized input; batch statistics while training and not frozen."""
        if self.training and not self.bn_frozen:
            y = self.normalized(x)
        elif self.runs_on_codes(grid):
            y = self.on_codes(x, self.fold(None), grid)
        else:
            y = self.compute(x, *self.deployed(self.fold(None), grid))
        return self.activated(y, then)

    def normalized(self, x: Tensor) -> Tensor:
        """Return x normalized by the batch's statistics, which the running ones follow."""
        y: Tensor = BatchNorm.forward(self, x)
        return y

    def fold(self, bn: BatchNorm | None, weight: Tensor | None = None, bias: Tensor | None = None) -> Folded:
        """Return the multiply-add that the running statistics make."""
        factor = bn_factor(self)
        assert self.running_mean is not None
        shift = -self.running_mean * factor
        return Folded(factor, shift if self.bias is None else self.bias + shift, None)

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Any = None) -> Tensor:
        """Multiply and add per channel (dimension 1)."""
        y = x * per_channel(weight, x, 1)
        return y if bias is None else y + per_channel(bias, x, 1)


class FusedSyncBatchNorm(FusedBatchNorm, nn.SyncBatchNorm):
    """The multiply-add of a SyncBatchNorm; while training the batch is that of all ranks."""

    def normalized(self, x: Tensor) -> Tensor:
        """Return x normalized by the statistics of the batch on all ranks."""
        y: Tensor = nn.SyncBatchNorm.forward(self, x)
        return y


class FusedFrozenBatchNorm(StaysInEval, FusedBatchNorm):
    """The multiply-add of a BatchNorm that never uses batch statistics."""
