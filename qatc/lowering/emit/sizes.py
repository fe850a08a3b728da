"""Sizes that follow the batch, computed in the file from the shapes of its tensors; all others are numbers by now."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from qatc.calls import call_name
from qatc.lowering.emit.builder import Builder, DeclinedError, Size, Value, shape_of


def size_of(b: Builder, node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    """Return what a node that reads or computes sizes gives: a number, a `Size`, or several in a tuple.

    `value` gives that of the nodes that it reads. Raises `DeclinedError` for arithmetic that is not in the table.
    """
    args = fx.node.map_arg(list(node.args), value)
    if node.kwargs or not args:
        raise DeclinedError
    if isinstance(args[0], Value):
        return _read(b, call_name(node), *args)
    function = node.target
    if function is operator.getitem or all(isinstance(a, tuple | list) for a in args):
        return _of_tuple(function, args)
    if function not in _ARITHMETIC or not all(isinstance(a, Size | int) for a in args):
        raise DeclinedError
    return _ARITHMETIC[function](b, *args)


def _read(b: Builder, name: str, x: Value, *rest: Any) -> Any:
    shape = shape_of(x)
    if name == "getattr" and rest == ("shape",):
        name, rest = "size", ()
    dims = range(len(shape)) if name == "numel" or not rest else rest
    if name not in ("size", "numel", "nelement") or not all(isinstance(d, int) for d in dims):
        raise DeclinedError
    sizes = [b.size(x, d) if shape[d] is None else shape[d] for d in dims]
    if name == "size":
        return sizes[0] if rest else tuple(sizes)
    total: Any = 1
    for size in sizes:
        total = _ARITHMETIC[operator.mul](b, total, size)
    return total


def _of_tuple(function: Any, args: list[Any]) -> Any:
    if function not in (operator.getitem, operator.add) or any(isinstance(a, Size) for a in args):
        raise DeclinedError
    return function(*(tuple(a) if isinstance(a, list) else a for a in args))


def _on_values(kind: str) -> Callable[..., Size]:
    def write(b: Builder, *operands: Size | int) -> Size:
        given = (size.value if isinstance(size, Size) else [size] for size in operands)
        return Size(b.op(kind, *given, dtype=torch.int64))

    return write


_mod, _sub, _div = _on_values("Mod"), _on_values("Sub"), _on_values("Div")


def _floor_divide(b: Builder, x: Size | int, y: Size | int) -> Size:
    return _div(b, _sub(b, x, _mod(b, x, y)), y)  # ONNX's own rounds towards zero


_ARITHMETIC: Mapping[Any, Callable[..., Any]] = {
    operator.add: _on_values("Add"), operator.sub: _sub, operator.mul: _on_values("Mul"),
    operator.floordiv: _floor_divide, operator.mod: _mod, operator.neg: _on_values("Neg"),
    max: _on_values("Max"), min: _on_values("Min"), torch.sym_max: _on_values("Max"), torch.sym_min: _on_values("Min"),
    int: lambda b, x: x,
}  # fmt: skip
