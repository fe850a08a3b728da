"""Fake quantization on a CPU by one pass over the values: the functions of kernels.c, on tensors."""

from ctypes import byref

import torch
from torch import Tensor, nn

from qatc.grid import Grid
from qatc.quantizers.native.library import Shape, library
from qatc.spec import QuantSpec

_PIECE = 1 << 15  # PIECE of kernels.c
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


def quantize(x: Tensor, grid: Grid, spec: QuantSpec, above: float, out: Tensor, clipped: Tensor | None = None) -> None:
    """Write x on its grid into `out`, which may be x; and into `clipped` [x's shape, bool] whether a value was not."""
    flags = None if clipped is None else clipped.data_ptr()
    shape = _shape(x, spec, above)
    _call("fake_quantize", shape, x.data_ptr(), *_pointers(grid), out.data_ptr(), flags)


def pass_unclipped(grad: Tensor, clipped: Tensor) -> Tensor:
    """Return the gradient, zero where `clipped` is true; both lie in memory alike."""
    result = torch.empty_like(grad)
    shape = Shape(1, 1, grad.numel(), 0, 0, 0, _threads(grad))
    _call("pass_unclipped", shape, grad.data_ptr(), clipped.data_ptr(), result.data_ptr())
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
    return result, whole[0].view_as(grid.scale), whole[1].view_as(grid.scale)


def magnitudes(x: Tensor, axis: int | None) -> Tensor:
    """Return the greatest magnitude, [channels] or 0-d."""
    shape = _layout(x, axis)
    found = torch.empty(shape.rows * -(-shape.inner // _PIECE))
    _call("magnitudes", shape, x.data_ptr(), found.data_ptr())
    most = found.view(-1, shape.channels, len(found) // shape.rows).amax((0, 2))
    return most.view(()) if axis is None else most


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
    return grid.scale.data_ptr(), grid.zero_point.data_ptr()


def _call(name: str, shape: Shape, *pointers: int | None) -> None:
    loaded = library()
    assert loaded is not None
    getattr(loaded, name)(byref(shape), *pointers)
