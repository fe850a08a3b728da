"""Fake quantization and its gradients as functions of tensors: by PyTorch's operators, or by the kernels for a CPU.

All divide by the scale as ONNX does; `torch.fake_quantize_*` multiplies by the reciprocal, which moves up to 17 % of
the codes of inputs that lie on a half-step grid.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from qatc import native
from qatc.grid import MIN_SCALE, Grid, per_channel
from qatc.spec import QuantSpec


class Quantized(NamedTuple):
    """Values on a grid; where they were clipped (a bool for each, or the kernels' bits); whether any may have been."""

    values: Tensor
    clipped: Tensor
    some: bool


class Tracking(NamedTuple):
    """How a range follows: the momentum of its averages, and what they are multiplied with."""

    momentum: float
    margin: float


def quantize(x: Tensor, grid: Grid, spec: QuantSpec, *, overwrite: bool = False) -> Quantized:
    """Return x on its grid, in x's dtype; the values may take the place of x."""
    if native.takes(x, spec.axis):
        result = x if overwrite else torch.empty_like(x)
        clipped = native.bits(x, spec.axis)
        some = native.quantize(x, grid, spec, _above(spec), result, clipped)
        return Quantized(result, clipped, some)
    scale, low, high = _bounds(x, grid, spec)
    ratio = x.float() / scale
    kept = ratio.clamp(low, high)
    clipped = ratio != kept
    kept = kept.round_().mul_(scale)
    # Whether there is one is not looked up: that would wait for the device.
    return Quantized(x.copy_(kept) if overwrite else kept.to(x.dtype), clipped, True)


def track(x: Tensor, averages: Tensor, tracking: Tracking, spec: QuantSpec, *, overwrite: bool) -> Quantized:
    """Follow a tensor that the native kernels take, then quantize it."""
    result = x if overwrite else torch.empty_like(x)
    clipped = native.bits(x, spec.axis)
    some = native.track(x, averages, *tracking, spec, MIN_SCALE, _above(spec), result, clipped)
    return Quantized(result, clipped, some)


def values(x: Tensor, grid: Grid, spec: QuantSpec, *, covered: bool = False) -> Tensor:
    """Return x on its grid, in x's dtype; `covered` says that no value lies beyond the grid's ends."""
    if native.takes(x, spec.axis):
        result = torch.empty_like(x)
        native.quantize(x, grid, spec, _above(spec), result)
        return result
    scale, low, high = _bounds(x, grid, spec)
    ratio = x.float() / scale
    return (ratio if covered else ratio.clamp_(low, high)).round_().mul_(scale).to(x.dtype)


def pass_unclipped(grad: Tensor, clipped: Tensor, axis: int | None) -> Tensor:
    """Return the gradient, zero where `quantize` clipped; for the kernels' bits it lies in memory as x did."""
    if clipped.dtype == torch.bool:
        return grad.masked_fill(clipped, 0.0)
    if torch.is_grad_enabled():  # it is itself differentiated
        return grad * native.pass_unclipped(torch.ones_like(grad), clipped, axis)
    return native.pass_unclipped(grad, clipped, axis)


def learned_gradient(x: Tensor, grad: Tensor, grid: Grid, spec: QuantSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Return what reaches x, and two sums per scale, in the scale's shape.

    With q = clip(round(x / s)) in steps from zero and k = 1 where x is not clipped: grad * k, the sum of
    grad * (q - k x / s), and that of grad * (1 - k).
    """
    alike = grad.dtype == x.dtype and grad.stride() == x.stride() and not torch.is_grad_enabled()
    if alike and native.takes(x, spec.axis):
        return native.learned_gradient(x, grad, grid, spec, _above(spec))
    scale, low, high = _bounds(x, grid, spec)
    ratio = x.float() / scale
    kept = ratio.clamp(low, high)
    inside = ratio == kept
    slope = kept.round_().sub_(ratio.mul_(inside))
    wide = grad.float()
    to_scale, to_clipped = ((wide * part).sum_to_size(scale.shape).view_as(grid.scale) for part in (slope, ~inside))
    return grad * inside, to_scale, to_clipped


def _bounds(x: Tensor, grid: Grid, spec: QuantSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scale and the ends of the grid in steps from zero, shaped to broadcast over x."""
    scale, zero_point = (per_channel(v, x, spec.axis) for v in grid)
    return scale, spec.qmin - zero_point + _above(spec), spec.qmax - zero_point


def _above(spec: QuantSpec) -> float:
    """Return by how much a value must be above the lowest code to count as not clipped, in steps.

    Zero itself counts as clipped where nothing is below, as it does to a ReLU: sums of grid values are often just zero.
    """
    return 0.0 if spec.signed or not spec.symmetric else 2.0**-60
