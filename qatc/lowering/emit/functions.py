"""Calls that stay functions: masks, comparisons, and tensors made from nothing."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from qatc.lowering.emit.builder import Builder, DeclinedError, Function, Size, Value, dtype_of, shape_of
from qatc.lowering.emit.layers import LAYER_FUNCTIONS
from qatc.lowering.emit.shapes import expanded
from qatc.modules.forms.form import names


def _compare(kind: str, negated: bool = False) -> Function:
    def write(b: Builder, input: Any, other: Any) -> Value:
        x, y = _promoted(b, input, other)
        result = b.compare(kind, x, y)
        return b.op("Not", result) if negated else result

    return write


def _promoted(b: Builder, *given: Any) -> list[Value]:
    """Return operands in the element type in which torch compares them."""
    dtype = torch.result_type(*(_stand_in(x) for x in given))
    if dtype == torch.bool:
        dtype = torch.int32  # ONNX orders no bools
    return [b.cast(x, dtype) if isinstance(x, Value) else b.number(x, dtype) for x in given]


def _stand_in(x: Any) -> Any:
    """Return a tensor of the same type and rank, which is all that promotion asks for; a number is itself."""
    if isinstance(x, Value):
        return torch.empty([1] * len(shape_of(x)), dtype=dtype_of(x), device="meta")
    return x if isinstance(x, int | float) else 1


def _logic(kind: str) -> Function:
    def write(b: Builder, *operands: Any, **named: Any) -> Value:
        given = (*operands, *named.values())
        if not all(isinstance(x, Value) and dtype_of(x) == torch.bool for x in given):
            raise DeclinedError
        return b.op(kind, *given)

    return write


def _where(b: Builder, condition: Value, input: Any, other: Any) -> Value:
    if dtype_of(condition) != torch.bool:
        raise DeclinedError
    x, y = (b.cast(v, b.gives.dtype) if isinstance(v, Value) else b.number(v, b.gives.dtype) for v in (input, other))
    return b.where(condition, x, y)


def _masked_fill(b: Builder, input: Value, mask: Value, value: Any) -> Value:
    return _where(b, mask, value, input)


def _cast(b: Builder, input: Value, *_: Any, **__: Any) -> Value:
    return b.cast(input, b.gives.dtype)


def _made(value: float | None, reads: int = 0) -> Function:
    """Return the form of a function that makes a tensor of one number, of sizes behind its first `reads` arguments.

    Where `value` is None, the number is an argument behind the sizes, which are then in a list.
    """

    def write(b: Builder, *given: Any, fill_value: Any = value, size: Any = None, **_: Any) -> Value:
        rest = list(given[reads:]) if size is None else [size, *given[reads:]]
        if fill_value is None and len(rest) > 1:
            fill_value = rest.pop()
        sizes = rest[0] if len(rest) == 1 and isinstance(rest[0], list | tuple) else rest
        if not isinstance(fill_value, int | float) or not all(isinstance(s, int | Size) for s in sizes):
            raise DeclinedError
        return b.op("Expand", b.number(fill_value, b.gives.dtype), sizes)

    return write


def _like(value: float | None) -> Function:
    """Return the form of a function that makes a tensor of another one's shape, all of one number."""

    def write(b: Builder, input: Value, fill_value: Any = value, **_: Any) -> Value:
        if not isinstance(fill_value, int | float):
            raise DeclinedError
        return b.op("Expand", b.number(fill_value, b.gives.dtype), b.op("Shape", input, dtype=torch.int64))

    return write


def _getitem(b: Builder, input: Value, index: Any) -> Value:
    """Write x[i, j, ...] and x[:, i], of positions that are tensors of integers or lists of numbers."""
    items = [
        np.array(i, np.int64) if isinstance(i, list) and all(type(n) is int for n in i) else i
        for i in (index if isinstance(index, tuple) else (index,))
    ]
    positions = [b.value(i) for i in items if isinstance(i, Value | np.ndarray)]
    if not positions or any(i is None or dtype_of(i) not in (torch.int32, torch.int64) for i in positions):
        raise DeclinedError
    if len(positions) == 1 and all(i == slice(None) for i in items if not isinstance(i, Value | np.ndarray)):
        axis = next(d for d, i in enumerate(items) if isinstance(i, Value | np.ndarray))
        return b.op("Gather", input, positions[0], axis=axis)
    if len(positions) < len(items):
        raise DeclinedError
    return b.op("GatherND", input, _together(b, [i for i in positions if i is not None]))


def _together(b: Builder, positions: Sequence[Value]) -> Value:
    """Return positions along several dimensions, broadcast, as the last dimension of one tensor."""
    rank = max(len(shape_of(i)) for i in positions)
    sizes: list[Any] = [1] * rank
    for i in positions:
        for d, size in enumerate(shape_of(i), start=rank - len(shape_of(i))):
            if size != 1:
                sizes[d] = (i, d - rank) if size is None else size
    whole = [b.cast(expanded(b, i, sizes), torch.int64) for i in positions]
    return b.op("Concat", *(b.op("Unsqueeze", i, [-1]) for i in whole), axis=-1)


def _arange(b: Builder, *ends: Any, start: Any = 0, end: Any = None, step: Any = 1, **_: Any) -> Value:
    given = {1: (start, *ends, step), 2: (*ends, step), 3: ends}.get(len(ends), (start, end, step))
    return b.op("Range", *(b.number(i, b.gives.dtype) for i in given))


def _cumsum(b: Builder, input: Value, dim: int, **_: Any) -> Value:
    return b.op("CumSum", b.cast(input, b.gives.dtype), np.array(dim, np.int64))


def _triangle(upper: int) -> Function:
    def write(b: Builder, input: Value, diagonal: int = 0) -> Value:
        return b.op("Trilu", input, np.array(diagonal, np.int64), upper=upper)

    return write


def _rounding(kind: str) -> Function:
    def write(b: Builder, input: Value) -> Value:
        return b.op(kind, input) if dtype_of(input).is_floating_point else input

    return write


_COMPARISONS: Mapping[str, tuple[str, bool]] = {
    "gt": ("Greater", False), "greater": ("Greater", False), "ge": ("GreaterOrEqual", False),
    "greater_equal": ("GreaterOrEqual", False), "lt": ("Less", False), "less": ("Less", False),
    "le": ("LessOrEqual", False), "less_equal": ("LessOrEqual", False), "eq": ("Equal", False),
    "ne": ("Equal", True), "not_equal": ("Equal", True),
}  # fmt: skip
_LOGIC: Mapping[str, tuple[str, ...]] = {
    "And": ("logical_and", "bitwise_and", "and_"), "Or": ("logical_or", "bitwise_or", "or_"),
    "Xor": ("logical_xor", "bitwise_xor", "xor"), "Not": ("logical_not", "bitwise_not", "invert"),
}  # fmt: skip
_OTHERS: Mapping[str, Function] = {
    "where": _where, "masked_fill": _masked_fill, "arange": _arange, "cumsum": _cumsum,
    **dict.fromkeys(("to", "type", "type_as", "bool", "int", "long", "float", "double", "half"), _cast),
    "zeros": _made(0), "ones": _made(1), "full": _made(None), "new_zeros": _made(0, reads=1),
    "new_ones": _made(1, reads=1), "new_full": _made(None, reads=1), "zeros_like": _like(0), "ones_like": _like(1),
    "full_like": _like(None), "getitem": _getitem,
    "tril": _triangle(0), "triu": _triangle(1), "detach": lambda b, input: input,
    "floor": _rounding("Floor"), "ceil": _rounding("Ceil"), "round": _rounding("Round"),
    "sign": lambda b, input: b.op("Sign", input),
}  # fmt: skip


def _targets(name: str) -> tuple[Any, ...]:
    found = names(name)
    return (*found, getattr(operator, name)) if hasattr(operator, name) else found


FUNCTIONS: Mapping[Any, Function] = {
    **LAYER_FUNCTIONS,
    **{t: _compare(*kind) for name, kind in _COMPARISONS.items() for t in _targets(name)},
    **{t: _logic(kind) for kind, spellings in _LOGIC.items() for name in spellings for t in _targets(name)},
    **{t: write for name, write in _OTHERS.items() for t in _targets(name)},
}
