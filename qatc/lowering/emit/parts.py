"""Parts of a tensor, and a tensor with a part replaced; positions are constants."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir
import torch
from torch import nn

from qatc.lowering.emit.builder import Builder, DeclinedError, Form, Value, dtype_of, known, shape_of
from qatc.lowering.emit.shapes import expanded
from qatc.modules import ops

# Along one dimension: first position, the one behind the last, and the step; None is all of it, a number one position.
Range = tuple[int, int, int] | int | None
END = 2**63 - 1


def sliced(b: Builder, x: Value, ranges: Mapping[int, tuple[int, int, int]]) -> Value:
    """Return the part of x in ranges of some dimensions."""
    if not ranges:
        return x
    starts, ends, steps = (list(column) for column in zip(*ranges.values(), strict=True))
    y = b.op("Slice", x, starts, ends, list(ranges), *([] if set(steps) == {1} else [steps]))
    shape = list(shape_of(x))
    for d, (start, end, step) in ranges.items():
        size = shape[d]
        shape[d] = None if size is None else len(range(*slice(start, end, step).indices(size)))
    y.shape = onnx_ir.Shape(shape)
    return y


def taken(b: Builder, x: Value, dim: int, index: int) -> Value:
    """Return one position of a dimension, without that dimension."""
    return b.op("Gather", x, np.array(index, np.int64), axis=dim)


def ranges_of(index: Any, x: Value) -> tuple[list[Range], list[int]]:
    """Return what an index takes along each dimension of x, and where it puts new dimensions into the result."""
    items = list(index) if isinstance(index, tuple | list) else [index]
    shape = shape_of(x)
    if ... in items:
        at = items.index(...)
        missing = len(shape) - sum(i is not None and i is not ... for i in items)
        items[at : at + 1] = [slice(None)] * missing
    ranges: list[Range] = []
    new: list[int] = []
    kept = 0
    for item in items:
        if item is None:
            new.append(kept)
        else:
            ranges.append(_range(item, shape[len(ranges)]))
        kept += not isinstance(item, int)
    return ranges + [None] * (len(shape) - len(ranges)), new


def _range(item: Any, size: int | None) -> Range:
    if isinstance(item, bool) or not isinstance(item, int | slice):
        raise DeclinedError
    if isinstance(item, int):
        return item
    if not all(isinstance(end, int | None) for end in (item.start, item.stop, item.step)):
        raise DeclinedError
    if size is not None:
        start, end, step = item.indices(size)
        return None if (start, step) == (0, 1) and end >= size else (start, end, step)
    start, end, step = item.start or 0, END if item.stop is None else item.stop, item.step or 1
    return None if (start, end, step) == (0, END, 1) else (start, end, step)


def _slice(b: Builder, m: ops.Slice, x: Value, index: Any = None) -> Value:
    ranges, new = ranges_of(m.index if index is None else index, x)
    y = sliced(b, x, {d: r for d, r in enumerate(ranges) if isinstance(r, tuple)})
    for d, position in reversed([*enumerate(ranges)]):
        if isinstance(position, int):
            y = taken(b, y, d, position)
    return b.op("Unsqueeze", y, new) if new else y


def _narrow(b: Builder, m: ops.Narrow, x: Value, start: Any = None, length: Any = None) -> Value:
    start, length = m.start if start is None else start, m.length if length is None else length
    if not isinstance(start, int) or not isinstance(length, int):
        raise DeclinedError
    return _piece(b, x, m.dim, start if start >= 0 else start + known(x, m.dim), length)


def _piece(b: Builder, x: Value, dim: int, start: int, length: int) -> Value:
    return sliced(b, x, {dim % len(shape_of(x)): (start, start + length, 1)})


def _split(b: Builder, m: ops.Split, x: Value) -> Value:
    sizes = m.split_size_or_sections
    if isinstance(sizes, int):
        return _numbered(b, x, m.dim, sizes, m.index)
    index = m.index % len(sizes)
    return _piece(b, x, m.dim, sum(sizes[:index]), sizes[index])


def _chunk(b: Builder, m: ops.Chunk, x: Value) -> Value:
    return _numbered(b, x, m.dim, -(-known(x, m.dim) // m.chunks), m.index)


def _numbered(b: Builder, x: Value, dim: int, size: int, index: int) -> Value:
    total = known(x, dim)
    start = (index % -(-total // size)) * size
    return _piece(b, x, dim, start, min(size, total - start))


def _flip(b: Builder, m: ops.Flip, x: Value) -> Value:
    dims = (m.dims,) if isinstance(m.dims, int) else m.dims
    return sliced(b, x, {d % len(shape_of(x)): (-1, -END - 1, -1) for d in dims})


def _roll(b: Builder, m: ops.Roll, x: Value) -> Value:
    shifts = (m.shifts,) if isinstance(m.shifts, int) else m.shifts
    if m.dims is None:
        count = math.prod(known(x, d) for d in range(len(shape_of(x))))
        (shift,) = shifts
        return b.reshape(_rolled(b, b.reshape(x, (count,)), 0, shift, count), b.gives.shape)
    for shift, dim in zip(shifts, (m.dims,) if isinstance(m.dims, int) else m.dims, strict=True):
        x = _rolled(b, x, dim % len(shape_of(x)), shift, known(x, dim))
    return x


def _rolled(b: Builder, x: Value, dim: int, shift: int, size: int) -> Value:
    at = -shift % size
    if at == 0:
        return x
    y = b.op("Concat", sliced(b, x, {dim: (at, END, 1)}), sliced(b, x, {dim: (0, at, 1)}), axis=dim)
    y.shape = x.shape
    return y


def _index_select(b: Builder, m: ops.IndexSelect, x: Value, index: Value) -> Value:
    if len(shape_of(index)) != 1:
        raise DeclinedError
    return b.op("Gather", x, index, axis=m.dim)


def _embedding(b: Builder, m: nn.Embedding | ops.Embedding, x: Value, weight: Value | None = None) -> Value:
    if getattr(m, "max_norm", None) is not None:
        raise DeclinedError
    return b.op("Gather", b.own(m, "weight") if weight is None else weight, x, axis=0)


def _assign(b: Builder, m: ops.Assign, x: Value, value: Any, index: Any = None) -> Value:
    where = m.index if index is None else index
    if isinstance(where, Value):
        return _masked(b, x, where, value)
    ranges, new = ranges_of(where, x)
    places = [_bounds(r, shape_of(x)[d]) for d, r in enumerate(ranges)]
    if new or not isinstance(value, Value | int | float):
        raise DeclinedError
    made = b.cast(value, dtype_of(x)) if isinstance(value, Value) else b.value(value, dtype_of(x))
    assert made is not None
    rest = list(shape_of(made))
    aligned: list[int | None] = []
    for r in reversed(ranges):  # a position taken by its number has no dimension in the value
        if isinstance(r, int):
            aligned.insert(0, 1)
        elif rest:
            aligned.insert(0, rest.pop())
    if rest:
        raise DeclinedError
    if tuple(aligned) != shape_of(made):
        made = b.reshape(made, aligned)
    return _with_part(b, x, places, made)


def _masked(b: Builder, x: Value, mask: Value, value: Any) -> Value:
    if dtype_of(mask) != torch.bool or isinstance(value, Value):
        raise DeclinedError
    missing = len(shape_of(x)) - len(shape_of(mask))
    return b.where(b.reshape(mask, (*shape_of(mask), *[1] * missing)) if missing else mask, value, x)


def _bounds(r: Range, size: int | None) -> tuple[int, int] | None:
    if r is None:
        return None
    if isinstance(r, int):
        if size is None and r < 0:
            raise DeclinedError
        start = r if r >= 0 or size is None else r + size
        return start, start + 1
    if r[2] != 1 or r[0] < 0 or r[1] < 0:
        raise DeclinedError
    return r[0], max(r[0], r[1])


def _with_part(b: Builder, x: Value, places: Sequence[tuple[int, int] | None], value: Value) -> Value:
    """Return x with the value in its part; what lies before and behind, dimension by dimension, is put around it."""
    dim = next((d for d, place in enumerate(places) if place is not None), None)
    if dim is None:
        return expanded(b, value, [(x, d) if size is None else size for d, size in enumerate(shape_of(x))])
    start, end = places[dim]  # type: ignore[misc]  # that dim has a place
    inner = [None if d == dim else place for d, place in enumerate(places)]
    middle = _with_part(b, sliced(b, x, {dim: (start, end, 1)}), inner, value)
    size = shape_of(x)[dim]
    parts = [middle]
    if start > 0:
        parts.insert(0, sliced(b, x, {dim: (0, start, 1)}))
    if size is None or end < size:
        parts.append(sliced(b, x, {dim: (end, END, 1)}))
    return parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=dim)


PARTS: Mapping[type[nn.Module], Form] = {
    ops.Slice: _slice, ops.Narrow: _narrow, ops.Select: lambda b, m, x: taken(b, x, m.dim, m.index),
    ops.Split: _split, ops.Chunk: _chunk, ops.Flip: _flip, ops.Roll: _roll, ops.IndexSelect: _index_select,
    ops.TakeAlong: lambda b, m, x, index: b.op("GatherElements", x, index, axis=m.dim),
    ops.Embedding: _embedding, nn.Embedding: _embedding, ops.Assign: _assign,
}  # fmt: skip
