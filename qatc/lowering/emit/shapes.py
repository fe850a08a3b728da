"""Ops that give the same values in another shape: shapes are constants, with -1 for the batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir
from torch import nn

from qatc.lowering.emit.builder import Builder, DeclinedError, Form, Size, Value, known, shape_of
from qatc.lowering.lower_modules import INACTIVE
from qatc.modules import ops


def reshaped(b: Builder, m: nn.Module, x: Value, shape: Any = None) -> Value:
    """Reshape x to what the call gives."""
    if sum(size is None for size in b.gives.shape) <= 1:
        return b.reshape(x, b.gives.shape)
    if isinstance(m, nn.Flatten):
        first, last = (d % len(shape_of(x)) for d in (m.start_dim, m.end_dim))
        kept = [size if size is not None else b.size(x, d) for d, size in enumerate(shape_of(x))]
        return b.op("Reshape", x, [*kept[:first], -1, *kept[last + 1 :]])
    wanted = listed(getattr(m, "shape", None) if shape is None else shape)
    if 0 in wanted or not all(isinstance(size, int | Size) for size in wanted):
        raise DeclinedError
    return b.op("Reshape", x, wanted)


def listed(sizes: Any) -> list[Any]:
    """Return sizes that may be a single one as a list."""
    return list(sizes) if isinstance(sizes, list | tuple) else [sizes]


def transposed(b: Builder, x: Value, order: Sequence[int]) -> Value:
    """Return x with its dimensions in another order; the shape is kept in mind."""
    shape = shape_of(x)
    perm = [d % len(shape) for d in order]
    y = b.op("Transpose", x, perm=perm)
    y.shape = onnx_ir.Shape([shape[d] for d in perm])
    return y


def _transpose(b: Builder, m: ops.Transpose, x: Value) -> Value:
    order = [*range(len(shape_of(x)))]
    order[m.dim0], order[m.dim1] = order[m.dim1], order[m.dim0]
    return transposed(b, x, order)


def _movedim(b: Builder, m: ops.Movedim, x: Value) -> Value:
    rank = len(shape_of(x))
    moved, places = (
        [d % rank for d in (given if isinstance(given, tuple) else (given,))] for given in (m.source, m.destination)
    )
    order = [d for d in range(rank) if d not in moved]
    for place, d in sorted(zip(places, moved, strict=True)):
        order.insert(place, d)
    return transposed(b, x, order)


def _squeeze(b: Builder, m: ops.Squeeze, x: Value) -> Value:
    shape = shape_of(x)
    dims = range(len(shape)) if m.dim is None else (m.dim,) if isinstance(m.dim, int) else m.dim
    axes = sorted({d % len(shape) for d in dims if shape[d] == 1})
    return b.op("Squeeze", x, axes) if axes else x


def _unsqueeze(b: Builder, m: ops.Unsqueeze, x: Value) -> Value:
    return b.op("Unsqueeze", x, [m.dim])


def _concat(b: Builder, m: ops.Concat, tensors: Any) -> Value:
    if not isinstance(tensors, list | tuple):
        raise DeclinedError  # the parts of a call that gives several
    given = [b.cast(x, b.gives.dtype) for x in tensors if shape_of(x) != (0,)]
    return given[0] if len(given) == 1 else b.op("Concat", *given, axis=m.dim)


def _expand(b: Builder, m: ops.Expand, x: Value, other: Value | None = None, size: Any = None) -> Value:
    gives = b.gives.shape
    sizes = [None] * len(gives) if other is not None else listed(m.size if size is None else size)
    return expanded(b, x, [_size(b, other, d, *pair) for d, pair in enumerate(zip(gives, sizes, strict=True))])


def _size(b: Builder, other: Value | None, d: int, gives: int | None, size: Any) -> Any:
    """Return a size to expand to: a number, a computed one, or None for one that the tensor must have already."""
    if gives is not None:
        return gives
    return size if isinstance(size, Size) else None if other is None else (other, d)


def expanded(b: Builder, x: Value, sizes: Sequence[Any]) -> Value:
    """Expand x to sizes: numbers, computed ones, those of a dimension of another tensor, or None for its own."""
    shape = (1,) * (len(sizes) - len(shape_of(x))) + shape_of(x)
    wanted: list[int | Size] = []
    for have, size in zip(shape, sizes, strict=True):
        if have == size or (have is None and not isinstance(size, int)):
            wanted.append(1)
        elif size is None:
            raise DeclinedError
        else:
            wanted.append(b.size(*size) if isinstance(size, tuple) else size)
    return x if wanted == [1] * len(shape_of(x)) else b.op("Expand", x, wanted)


def _tile(b: Builder, m: ops.Tile, x: Value, repeats: Any = None) -> Value:
    factors = listed(m.repeats if repeats is None else repeats)
    missing = len(factors) - len(shape_of(x))
    if missing > 0:
        x = b.op("Unsqueeze", x, list(range(missing)))
    return b.op("Tile", x, [1] * -missing + factors)


def _repeat_interleave(b: Builder, m: ops.RepeatInterleave, x: Value) -> Value:
    rank, dim = len(shape_of(x)), m.dim % len(shape_of(x))
    factors = [m.repeats if d == dim + 1 else 1 for d in range(rank + 1)]
    return b.reshape(b.op("Expand", b.op("Unsqueeze", x, [dim + 1]), factors), b.gives.shape)


def _image(x: Value) -> tuple[int | None, int, int, int]:
    if len(shape_of(x)) != 4:
        raise DeclinedError
    return shape_of(x)[0], known(x, 1), known(x, 2), known(x, 3)


def _pixel_shuffle(b: Builder, m: nn.PixelShuffle, x: Value) -> Value:
    if len(shape_of(x)) != 4:
        raise DeclinedError
    return b.op("DepthToSpace", x, blocksize=m.upscale_factor, mode="CRD")


def _pixel_unshuffle(b: Builder, m: nn.PixelUnshuffle, x: Value) -> Value:
    (batch, channels, height, width), r = _image(x), m.downscale_factor
    apart = b.reshape(x, (batch, channels, height // r, r, width // r, r))
    return b.reshape(transposed(b, apart, (0, 1, 3, 5, 2, 4)), b.gives.shape)


def _channel_shuffle(b: Builder, m: nn.ChannelShuffle, x: Value) -> Value:
    batch, *places = shape_of(x)
    channels = known(x, 1)
    apart = b.reshape(x, (batch, m.groups, channels // m.groups, *places[1:]))
    return b.reshape(transposed(b, apart, (0, 2, 1, *range(3, len(places) + 2))), b.gives.shape)


def _cast(b: Builder, m: ops.Cast, x: Value) -> Value:
    return b.cast(x, m.dtype)


def _itself(b: Builder, m: nn.Module, x: Value) -> Value:
    return x


SHAPES: Mapping[type[nn.Module], Form] = {
    ops.Reshape: reshaped, nn.Flatten: reshaped, nn.Unflatten: reshaped,
    ops.Permute: lambda b, m, x: transposed(b, x, m.dims), ops.Transpose: _transpose, ops.Movedim: _movedim,
    ops.Squeeze: _squeeze, ops.Unsqueeze: _unsqueeze, ops.Concat: _concat, ops.Expand: _expand, ops.Tile: _tile,
    ops.RepeatInterleave: _repeat_interleave, nn.PixelShuffle: _pixel_shuffle, nn.PixelUnshuffle: _pixel_unshuffle,
    nn.ChannelShuffle: _channel_shuffle, ops.Cast: _cast, **dict.fromkeys(INACTIVE, _itself),
}  # fmt: skip
