"""Quantize and dequantize in one differentiable step.

Both functions divide by the scale as ONNX does; `torch.fake_quantize_*` multiplies by the reciprocal, which moves up to
17 % of the codes of inputs that lie on a half-step grid.
"""

from typing import Any

import torch
from torch import Tensor

from qatc.quantizers.grid import Grid, per_channel
from qatc.spec import QuantSpec


class _Masked(torch.autograd.Function):
    """Straight-through estimator: the gradient is 1 where the value was not clipped, 0 where it was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
        levels = (x.float() / scale).round_().add_(zero_point)
        clipped = levels.clamp(qmin, qmax)
        ctx.save_for_backward(levels == clipped)
        return clipped.sub_(zero_point).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None, None


class _Learned(torch.autograd.Function):
    """The same with a gradient for the step size (LSQ, Esser et al., arXiv:1902.08153, equation 3)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, gradient_scale: float
    ) -> Tensor:
        clipped = (x.float() / scale).round_().add_(zero_point).clamp_(qmin, qmax)
        ctx.save_for_backward(x, scale, zero_point)
        ctx.qmin, ctx.qmax, ctx.gradient_scale = qmin, qmax, gradient_scale
        return clipped.sub_(zero_point).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        grad = grads[0]
        ratio = x.float() / scale
        levels = ratio.round().add_(zero_point)
        clipped = levels.clamp(ctx.qmin, ctx.qmax)
        inside = levels == clipped
        slope = clipped.sub_(zero_point).sub_(ratio.mul_(inside))
        grad_scale = (grad.float() * slope).sum_to_size(scale.shape).mul_(ctx.gradient_scale)
        return grad * inside, grad_scale, None, None, None, None


def fake_quantize(x: Tensor, grid: Grid, spec: QuantSpec) -> Tensor:
    """Return x on the grid, in x's dtype; the gradient passes where x was not clipped."""
    scale, zero_point = (per_channel(v, x, spec.axis) for v in grid)
    result: Tensor = _Masked.apply(x, scale, zero_point, spec.qmin, spec.qmax)
    return result


def fake_quantize_learned(x: Tensor, grid: Grid, spec: QuantSpec, gradient_scale: float) -> Tensor:
    """Return x on the grid; the scale gets LSQ's gradient, times `gradient_scale`."""
    scale, zero_point = (per_channel(v, x, spec.axis) for v in grid)
    result: Tensor = _Learned.apply(x, scale, zero_point, spec.qmin, spec.qmax, gradient_scale)
    return result


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
