"""Quantize and dequantize in one differentiable step.

Both functions divide by the scale as ONNX does; `torch.fake_quantize_*` multiplies by the reciprocal, which moves up to
17 % of the codes of inputs that lie on a half-step grid.
"""

from typing import Any

import torch
from torch import Tensor

from qatc.grid import Grid, per_channel
from qatc.quantizers.blocks import in_blocks, pass_unclipped, quantize_blocks
from qatc.spec import QuantSpec


class _Masked(torch.autograd.Function):
    """Straight-through estimator: the gradient is 1 where the value was not clipped, 0 where it was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ratio = x.float() / scale
        clipped = ratio.clamp(low, high)
        ctx.save_for_backward(ratio == clipped)
        return clipped.round_().mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None


class _MaskedInBlocks(torch.autograd.Function):
    """The same, for what `in_blocks` takes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, low: float, high: float, overwrite: bool) -> Tensor:
        result = x if overwrite else torch.empty_like(x)
        clipped = quantize_blocks(x, scale, low, high, result)
        ctx.save_for_backward(clipped)
        if overwrite:
            ctx.mark_dirty(x)
        ctx.channels_last = not x.is_contiguous()
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (clipped,) = ctx.saved_tensors
        layout = torch.channels_last if ctx.channels_last else torch.contiguous_format
        grad = grads[0].contiguous(memory_format=layout)
        if not torch.is_grad_enabled():
            return pass_unclipped(grad, clipped), None, None, None, None
        # Asked for a graph of the gradient, too.
        inside = torch.empty_like(grad, requires_grad=False)
        inside.copy_(pass_unclipped(torch.ones_like(grad), clipped))
        return grad * inside, None, None, None, None


class _Unclipped(torch.autograd.Function):
    """Straight-through estimator of values that the grid covers: none is clipped, so the gradient is 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        return (x.float() / scale).round_().mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


class _Learned(torch.autograd.Function):
    """The same with a gradient for the step size (LSQ, Esser et al., arXiv:1902.08153, equation 3)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Tensor, high: Tensor, gradient_scale: float) -> Tensor:
        ctx.save_for_backward(x, scale, low, high)
        ctx.gradient_scale = gradient_scale
        return (x.float() / scale).clamp_(low, high).round_().mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, low, high = ctx.saved_tensors
        grad = grads[0]
        ratio = x.float() / scale
        clipped = ratio.clamp(low, high)
        inside = ratio == clipped
        slope = clipped.round_().sub_(ratio.mul_(inside))
        grad_scale = (grad.float() * slope).sum_to_size(scale.shape).mul_(ctx.gradient_scale)
        return grad * inside, grad_scale, None, None, None


# What made these tensors does not need them in its backward pass, so they can be written over.
_SPARE = frozenset({"NativeBatchNormBackward0", "CudnnBatchNormBackward0", "ConvolutionBackward0", "AddBackward0"})


def fake_quantize(x: Tensor, grid: Grid, spec: QuantSpec, *, overwrite: bool = False) -> Tensor:
    """Return x on the grid, in x's dtype; the gradient passes where x was not clipped.

    `overwrite` says that nothing else reads x, so that the result may take its place where autograd allows it.
    """
    if in_blocks(x, grid.scale):
        zero = float(grid.zero_point)
        low, high = spec.qmin - zero + _above(spec), spec.qmax - zero
        blocks: Tensor = _MaskedInBlocks.apply(x, float(grid.scale), low, high, overwrite and _is_spare(x))
        return blocks
    result: Tensor = _Masked.apply(x, *_bounds(x, grid, spec))
    return result


def _is_spare(x: Tensor) -> bool:
    """Say whether nothing but its next reader needs x; a dispatch mode (selective checkpointing) may have kept it."""
    modes: int = torch._C._len_torch_dispatch_stack()
    return x._base is None and type(x.grad_fn).__name__ in _SPARE and not modes


def fake_quantize_covered(x: Tensor, grid: Grid, spec: QuantSpec) -> Tensor:
    """Return x on a grid without zero point that covers all of it; the gradient passes everywhere."""
    result: Tensor = _Unclipped.apply(x, per_channel(grid.scale, x, spec.axis))
    return result


def fake_quantize_learned(x: Tensor, grid: Grid, spec: QuantSpec, gradient_scale: float) -> Tensor:
    """Return x on the grid; the scale gets LSQ's gradient, times `gradient_scale`."""
    result: Tensor = _Learned.apply(x, *_bounds(x, grid, spec), gradient_scale)
    return result


def _bounds(x: Tensor, grid: Grid, spec: QuantSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scale and the ends of the grid in steps from zero, shaped to broadcast over x."""
    scale, zero_point = (per_channel(v, x, spec.axis) for v in grid)
    return scale, spec.qmin - zero_point + _above(spec), spec.qmax - zero_point


def _above(spec: QuantSpec) -> float:
    """Return by how much a value must be above the lowest code to count as not clipped, in steps.

    Zero itself counts as clipped where nothing is below, as it does to a ReLU: sums of grid values are often just zero.
    """
    return 0.0 if spec.signed or not spec.symmetric else 2.0**-60


class _StraightThrough(torch.autograd.Function):
    """`value` forward; the gradient goes to what it was computed from, as if nothing had been done to it."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


def straight_through(source: Tensor, value: Tensor) -> Tensor:
    """Return exactly `value`; its gradient goes to `source` (same shape)."""
    result: Tensor = _StraightThrough.apply(source, value)
    return result


# The largest float32 that fits 32 bits.
_LARGEST_BIAS_CODE = 2.0**31 - 128


def bias_codes(bias: Tensor, step: Tensor) -> Tensor:
    """Return the int32 codes of a bias, as float32."""
    return (bias.detach().float() / step.detach()).round_().clamp_(-_LARGEST_BIAS_CODE, _LARGEST_BIAS_CODE)


def snap(bias: Tensor, step: Tensor) -> Tensor:
    """Return the bias rounded to multiples of `step` (same shape, or 0-d): how its int32 codes read in float."""
    return straight_through(bias, bias_codes(bias, step).mul_(step.detach()).to(bias.dtype))
