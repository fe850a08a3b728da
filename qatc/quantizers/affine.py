"""Fake quantization whose scale and zero point both learn."""

from typing import Any

import torch
from torch import Tensor

from qatc.grid import Grid, grid_from_range, per_channel
from qatc.quantizers.fake_quantize import straight_through
from qatc.spec import QuantSpec


class _Affine(torch.autograd.Function):
    """Straight-through estimator of (clip(round(x / s) + z) - z) * s, with gradients for s and z."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec, factor: float) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.spec, ctx.factor = spec, factor
        ratio = x.float() / scale
        return ratio.clamp_(spec.qmin - zero_point, spec.qmax - zero_point).round_().mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        ratio = x.float() / scale
        clipped = ratio.clamp(ctx.spec.qmin - zero_point, ctx.spec.qmax - zero_point)
        inside = ratio == clipped
        slope = clipped.round_().sub_(ratio.mul_(inside))
        grad = grads[0].float()
        grad_scale = (grad * slope).sum_to_size(scale.shape).mul_(ctx.factor)
        grad_zero = (grad * ~inside).sum_to_size(zero_point.shape).mul_(-scale * ctx.factor)
        return grads[0] * inside, grad_scale, grad_zero, None, None


def fake_quantize_affine(x: Tensor, grid: Grid, spec: QuantSpec, gradient_scale: float = 1.0) -> Tensor:
    """Return x on the grid, in x's dtype; x gets its gradient where it was not clipped.

    Scale and zero point get theirs, times `gradient_scale`:
    with k = 1 where x is not clipped and q = clip(round(x / s)) in steps from zero: dy/dx = k, dy/ds = q - k x / s,
    dy/dz = -(1 - k) s (AIMET 2.42, affine backends; the plain form differentiated with round's gradient as 1).
    """
    scale, zero_point = (per_channel(v, x, spec.axis) for v in grid)
    result: Tensor = _Affine.apply(x, scale, zero_point, spec, gradient_scale)
    return result


def learned_grid(low: Tensor, high: Tensor, spec: QuantSpec, floor: Tensor | None = None) -> Grid:
    """Return the grid of a range, as `grid_from_range` has it; gradients pass straight through all that it rounds.

    A symmetric grid is that of `high` alone.
    """
    exact = grid_from_range(low.detach(), high.detach(), spec, floor)
    if spec.symmetric:
        return Grid(straight_through(high / spec.qmax, exact.scale), exact.zero_point)
    scale = straight_through((high - low) / (spec.qmax - spec.qmin), exact.scale)
    zero_point = spec.qmin - low / scale if spec.upper is None else spec.qmax - high / scale
    return Grid(scale, straight_through(zero_point, exact.zero_point))
