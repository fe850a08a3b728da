"""Fake quantization on a CPU by one pass over the values: the functions of kernels.c, on tensors."""

import math
from ctypes import byref
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from qatc.native.library import Ends, Shape, library
from qatc.spec import QuantSpec

Grid = tuple[Tensor, Tensor]  # scale and zero point, 0-d or [channels]

_PIECE, _WORD = 1 << 15, 32  # as in kernels.c
_FOR_ONE_THREAD = 1 << 16  # up to so many values, more threads cost more than they save


def takes(x: Tensor, axis: int | None = None) -> bool:
    """Say whether the kernels are there and x is for them: float32 on the CPU, its channels' values side by side.

    torch.compile and dispatch modes are to see PyTorch's own operators.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if type(x) not in (Tensor, nn.Parameter) or not x.numel() or torch._C._len_torch_dispatch_stack():
        return False
    dense = x.is_contiguous() or (not axis and x.is_contiguous(memory_format=torch.channels_last))
    return dense and library() is not None


def quantize(x: Tensor, grid: Grid, spec: QuantSpec, above: float, out: Tensor, clipped: Tensor | None = None) -> bool:
    """Write x on its grid into `out`, which may be x, and where it was clipped into `clipped`, of `bits`.

    Return whether any value was, if `clipped` was given.
    """
    flags = None if clipped is None else clipped.data_ptr()
    shape = _shape(x, spec, above)
    return _call("fake_quantize", shape, x.data_ptr(), *_pointers(grid), out.data_ptr(), flags) == 1


def bits(x: Tensor, axis: int | None) -> Tensor:
    """Return room for a bit per value of x."""
    shape = _layout(x, axis)
    return torch.empty(shape.rows * -(-shape.inner // _WORD), dtype=torch.int32)


def pass_unclipped(grad: Tensor, clipped: Tensor, axis: int | None) -> Tensor:
    """Return the gradient, zero where a bit of `clipped` is set; it lies in memory as what was clipped."""
    result = torch.empty_like(grad)
    _call("pass_unclipped", _layout(grad, axis), grad.data_ptr(), clipped.data_ptr(), result.data_ptr())
    return result


def learned_gradient(
    x: Tensor, grad: Tensor, grid: Grid, spec: QuantSpec, above: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return grad where x is not clipped; and, per scale, the sums that `kernels.learned_gradient` describes."""
    result = torch.empty_like(x)
    shape = _shape(x, spec, above)
    to_scale, to_clipped = sums = torch.empty(2, shape.rows * -(-shape.inner // _PIECE), dtype=torch.float64)
    pointers = (t.data_ptr() for t in (result, to_scale, to_clipped))
    _call("learned_gradient", shape, x.data_ptr(), grad.data_ptr(), *_pointers(grid), *pointers)
    whole = sums.view(2, -1, shape.channels, sums.shape[1] // shape.rows).sum((1, 3)).float()
    return result, whole[0].view_as(grid[0]), whole[1].view_as(grid[0])


def extremes(x: Tensor, axis: int | None) -> Tensor:
    """Return the least and the greatest value, [2, channels]; NaN at an end if there is one."""
    shape = _layout(x, axis)
    low, high = ends = torch.empty(2, shape.rows * -(-shape.inner // _PIECE))
    _call("extremes", shape, x.data_ptr(), low.data_ptr(), high.data_ptr())
    if ends.shape[1] == shape.channels:
        return ends
    parts = ends.view(2, -1, shape.channels, ends.shape[1] // shape.rows)
    return torch.stack([parts[0].amin((0, 2)), parts[1].amax((0, 2))])


def follow(x: Tensor, averages: Tensor, momentum: float, spec: QuantSpec) -> None:
    """Move averages [3, 1] as `qatc.ranges.MovingAverage` does with the extremes of a whole tensor."""
    from_zero = spec.symmetric and not spec.signed
    _call("follow", _layout(x, None), x.data_ptr(), averages.data_ptr(), momentum, _upper(spec), from_zero)


def makes_grids(spec: QuantSpec, *tensors: Tensor | None) -> bool:
    """Say whether `grid` can take these ends and the floor: alike, and without a gradient."""
    given = [t for t in tensors if t is not None]
    alike = all(takes(t) and t.shape == given[0].shape and not t.requires_grad for t in given)
    return spec.pow2 is None and alike


def grid(low: Tensor, high: Tensor, spec: QuantSpec, floor: Tensor | None, least: float) -> Grid:
    """Return what `qatc.grid.grid_from_range` does; `least` is the least scale."""
    ends = _ends(spec, least)
    scale, zero_point = torch.empty_like(low), torch.empty_like(low)
    floors = None if floor is None else floor.data_ptr()
    pointers = (low.data_ptr(), high.data_ptr(), floors, scale.data_ptr(), zero_point.data_ptr())
    _call("grid", ends, low.numel(), *pointers)
    return scale, zero_point


class Bounds(NamedTuple):
    """The least scale; the codes that a bias may have, a scale being widened for it; and those that fit 32 bits."""

    scale: float
    bias: float
    int32: float


def cover(weight: Tensor, bias: Tensor, scale: Tensor, spec: QuantSpec, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Return a weight [channels, ...] on grids that cover its channels, and the bias [channels] on those times `scale`.

    `scale` is the input's, 0-d.
    """
    covered, snapped = torch.empty_like(weight), torch.empty_like(bias)
    pointers = (t.data_ptr() for t in (weight, bias, scale, covered, snapped))
    shape = _shape(weight, spec, 0.0)
    _call("cover", shape, bounds.scale, bounds.bias, bounds.int32, *pointers)
    return covered, snapped


def averaged_grid(averages: Tensor, margin: float, spec: QuantSpec, least: float) -> Grid:
    """Return the grid [0-d] of a range that is `margin` times such averages."""
    scale, zero_point = averages.new_empty(()), averages.new_empty(())
    pointers = (averages.data_ptr(), margin, scale.data_ptr(), zero_point.data_ptr())
    _call("averaged_grid", _ends(spec, least), *pointers)
    return scale, zero_point


def track(
    x: Tensor,
    averages: Tensor,
    momentum: float,
    margin: float,
    spec: QuantSpec,
    least: float,
    above: float,
    out: Tensor,
    clipped: Tensor,
) -> bool:
    """Do what `follow`, `averaged_grid` and `quantize` do, one behind the other."""
    from_zero = spec.symmetric and not spec.signed
    moved = (averages.data_ptr(), momentum, from_zero, margin)
    ends = byref(_ends(spec, least))
    return _call("track", _shape(x, spec, above), ends, x.data_ptr(), *moved, out.data_ptr(), clipped.data_ptr()) == 1


@cache
def _ends(spec: QuantSpec, least: float) -> Ends:
    return Ends(spec.qmin, spec.qmax, _upper(spec), least, spec.symmetric, spec.signed)


def _upper(spec: QuantSpec) -> float:
    return math.inf if spec.upper is None else spec.upper


def _shape(x: Tensor, spec: QuantSpec, above: float) -> Shape:
    shape = _layout(x, spec.axis)
    shape.qmin, shape.qmax, shape.above = spec.qmin, spec.qmax, above
    return shape


def _layout(x: Tensor, axis: int | None) -> Shape:
    if axis is None:
        return Shape(1, 1, x.numel(), 0, 0, 0, _threads(x))
    channels, outer = x.shape[axis], x.shape[:axis].numel()
    return Shape(outer * channels, channels, x.numel() // (outer * channels), 0, 0, 0, _threads(x))


def _threads(x: Tensor) -> int:
    return 1 if x.numel() <= _FOR_ONE_THREAD else torch.get_num_threads()


def _pointers(grid: Grid) -> tuple[int, int]:
    assert all(v.dtype == torch.float32 and v.is_contiguous() for v in grid)
    return grid[0].data_ptr(), grid[1].data_ptr()


def _call(name: str, first: Shape | Ends, *rest: Any) -> int | None:
    loaded = library()
    assert loaded is not None
    result: int | None = getattr(loaded, name)(byref(first), *rest)
    return result
