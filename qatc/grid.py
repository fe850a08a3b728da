"""From a range to a grid (scale and zero point), and from values to codes; all in float32, all as ONNX computes it."""

from typing import NamedTuple

import torch
from torch import Tensor

from qatc import native
from qatc.spec import Pow2, QuantSpec

# Keeps a scale positive where a tensor is all zeros.
MIN_SCALE = 2.0**-40
# A bias must fit 32 bits on the grid scale_x * scale_w, with room for the sum it is added to.
BIAS_CODES = 2.0**30
# The largest float32 that fits 32 bits.
LARGEST_BIAS_CODE = 2.0**31 - 128
# Mantissas above these go up: all but 1/2 itself, or those above 2^-1/2 (the greatest float32 that is not).
_HALF, _NEARER_ABOVE = 0.5, 0.707106769084930419921875


class Grid(NamedTuple):
    """Scale and zero point of a tensor: 0-d, or 1-d with one entry per channel; both float32."""

    scale: Tensor
    zero_point: Tensor


def grid_from_range(low: Tensor, high: Tensor, spec: QuantSpec, floor: Tensor | None = None) -> Grid:
    """Return the grid that covers [low, high] and zero; `floor` is the least scale allowed.

    Symmetric: the larger magnitude maps to the highest code. Asymmetric: low maps to the lowest code, high to the
    highest, zero to a whole code (Jacob et al., arXiv:1712.05877, section 3).
    """
    if native.makes_grids(spec, low, high, floor):
        return Grid(*native.grid(low, high, spec, floor, MIN_SCALE))
    low, high = low.float(), high.float()
    if spec.upper is not None:
        high = high.clamp(max=spec.upper)
    if spec.symmetric:
        amplitude = torch.maximum(-low, high) if spec.signed else high
        scale = finish_scale(amplitude / spec.qmax, spec, floor)
        zero_point = torch.zeros_like(scale)
    else:
        low, high = low.clamp(max=0.0), high.clamp(min=0.0)
        scale = finish_scale((high - low) / (spec.qmax - spec.qmin), spec, floor)
        # A scale rounded to a power of two leaves room at one end: the lower one where the upper one is bounded.
        zero_point = spec.qmin - low / scale if spec.upper is None else spec.qmax - high / scale
        zero_point = finish_zero_point(zero_point, spec)
    return Grid(within_clip(scale, zero_point, spec), zero_point)


def within_clip(scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> Tensor:
    """Return the scale, made smaller where the grid would end above the value that its producer clips at.

    Of powers of two, the zero point fixed at 0, it is the least one that reaches there: the one below would lose up to
    half of what the clip lets through. The lowered file limits the codes where it reaches beyond.
    """
    if spec.upper is None:
        return scale
    steps = spec.qmax - zero_point
    limit = spec.upper / steps.clamp(min=1.0)
    # The quotient may have been rounded up, and runtimes compare in float32.
    limit = torch.where(limit * steps > spec.upper, torch.nextafter(limit, torch.zeros_like(limit)), limit)
    return torch.minimum(scale, power_of_two(limit, "up" if spec.symmetric else "down") if spec.pow2 else limit)


def finish_scale(scale: Tensor, spec: QuantSpec, floor: Tensor | None = None) -> Tensor:
    """Return the scale as the spec allows it: positive, at least `floor`, a power of two where asked."""
    scale = scale.clamp(min=MIN_SCALE)
    if spec.pow2 is not None:
        scale = power_of_two(scale, spec.pow2)
        floor = None if floor is None else power_of_two(floor.clamp(min=MIN_SCALE), "up")  # 0 has no exponent
    return scale if floor is None else torch.maximum(scale, floor)


def finish_zero_point(zero_point: Tensor, spec: QuantSpec) -> Tensor:
    """Return the zero point as a code; even where scales are powers of two.

    Kernels that add the zero point before rounding break ties differently from ONNX if it is odd. With an upper bound
    it is rounded up: the grid then does not end above the bound.
    """
    step = 2 if spec.pow2 else 1
    rounded = torch.round(zero_point / step) if spec.upper is None else torch.ceil(zero_point / step)
    return (step * rounded).clamp(spec.qmin, spec.qmax - spec.qmax % step)


def power_of_two(scale: Tensor, rounding: Pow2) -> Tensor:
    """Return the power of two next to it, up, down or 2^round(log2); exact, since it reads the float's own exponent."""
    mantissa, exponent = torch.frexp(scale)
    exact_or_down = torch.ldexp(torch.ones_like(scale), exponent - 1)
    if rounding == "down":
        return exact_or_down
    least = _HALF if rounding == "up" else _NEARER_ABOVE
    return torch.where(mantissa <= least, exact_or_down, 2 * exact_or_down)


def least_scale(bias: Tensor, scale: Tensor, spec: QuantSpec) -> Tensor:
    """Return the scale of a weight below which the bias would not fit 32 bits on the grid of it times `scale`."""
    least = bias.detach().float().abs() / (BIAS_CODES * scale)
    return least if spec.axis is not None else least.max()


def per_channel(value: Tensor, like: Tensor, axis: int | None) -> Tensor:
    """Return a per-channel vector shaped to broadcast over `like`."""
    if axis is None or value.dim() == 0:
        return value
    shape = [1] * like.dim()
    shape[axis] = -1
    return value.view(shape)


def codes(x: Tensor, grid: Grid, spec: QuantSpec) -> Tensor:
    """Return the integer codes of x in float32: divide, round half to even, add the zero point, saturate (ONNX Q)."""
    scale, zero_point = (per_channel(v, x, spec.axis) for v in grid)
    return (torch.round(x.float() / scale) + zero_point).clamp_(spec.qmin, spec.qmax)


def dequantize(code: Tensor, grid: Grid, spec: QuantSpec) -> Tensor:
    """Return the real values of codes (ONNX DequantizeLinear)."""
    scale, zero_point = (per_channel(v, code, spec.axis) for v in grid)
    return (code - zero_point) * scale
