"""The lowering pass that writes out the sizes that do not follow the batch."""

import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from qatc import ir
from qatc.calls import call_name, is_size
from qatc.ir import TensorType
from qatc.pipeline import Pass

# Functions and methods that need only the type of the tensor they are given: what they fill with, or None for an
# argument of theirs, by its place.
_FILLED: Mapping[str, float | None] = {
    "zeros_like": 0, "ones_like": 1, "full_like": None, "new_zeros": 0, "new_ones": 1, "new_full": None,
}  # fmt: skip


@dataclass(frozen=True)
class ConstantSizes(Pass):
    """Sizes that do not follow the batch become numbers, tensors of such sizes and one number stand alone.

    What is computed from them alone is then a constant like any other.
    """

    name: ClassVar[str] = "constant-sizes"

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        known = _values([node for node in gm.graph.nodes if is_size(node)])
        changed = False
        read: set[fx.Node] = set()
        for node in gm.graph.nodes:
            before = node.all_input_nodes
            if node not in known and not known.keys().isdisjoint(before):
                node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), lambda n: known.get(n, n))
                changed = True
            changed |= _stand_alone(node)
            read.update(before)
        for node in reversed(gm.graph.nodes):
            if node in read and not node.users and node.op not in ("placeholder", "output"):
                read.update(node.all_input_nodes)
                gm.graph.erase_node(node)
        if changed:
            gm.recompile()
        return changed


def _stand_alone(node: fx.Node) -> bool:
    """Let a node that fills a tensor of a known size need no other tensor; say whether it did."""
    kind = ir.tensor_type(node)
    name = call_name(node) if node.op in ("call_function", "call_method") else ""
    if name not in _FILLED or kind is None or None in kind.shape or not node.all_input_nodes:
        return False
    value: Any = _FILLED[name]
    if value is None:
        place = 1 if name == "full_like" else 2
        value = node.args[place] if len(node.args) > place else node.kwargs.get("fill_value")
    if not isinstance(value, int | float):
        return False
    node.op, node.target = "call_function", torch.full
    node.args, node.kwargs = (kind.shape, value), {"dtype": kind.dtype}
    return True


def _values(nodes: Iterable[fx.Node]) -> dict[fx.Node, Any]:
    """Return the values of those sizes that are known."""
    found: dict[fx.Node, Any] = {}
    for node in nodes:
        try:
            found[node] = _value(node, found)
        except _UnknownError:
            continue
    return {node: value for node, value in found.items() if not _has_unknown(value)}


class _UnknownError(Exception):
    """A size that follows the batch, or that only the values of tensors tell."""


def _value(node: fx.Node, found: Mapping[fx.Node, Any]) -> Any:
    """Return a size, or several in a tuple, where None is one that follows the batch."""
    kind = ir.tensor_type(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
    if kind is not None:
        return _of_type(kind, *((node.args[1],) if node.target is getattr else (node.target, *node.args[1:])))
    if not found.keys() >= set(node.all_input_nodes):
        raise _UnknownError
    args, kwargs = fx.map_arg((node.args, node.kwargs), found.__getitem__)
    if node.target is not operator.getitem and _has_unknown((args, kwargs)):
        raise _UnknownError
    function: Any = node.target
    try:
        result = function(*args, **kwargs)
    except Exception as error:  # whatever arithmetic of the user's raises: it stays in the graph
        raise _UnknownError from error
    if result is None:
        raise _UnknownError
    return result


def _of_type(kind: TensorType, name: Any, *args: Any) -> Any:
    match name, args:
        case ("shape", ()) | ("size", ()):
            return kind.shape
        case "size", (int() as dim,) if kind.shape[dim] is not None:
            return kind.shape[dim]
        case (("numel" | "nelement"), ()) if None not in kind.shape:
            return math.prod(size for size in kind.shape if size is not None)
        case (("dim" | "ndim" | "ndimension"), ()):
            return len(kind.shape)
        case "dtype", ():
            return kind.dtype
        case "device", ():
            return torch.device("cpu")
    raise _UnknownError


def _has_unknown(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_unknown, value.values()))
    return value is None or (isinstance(value, tuple | list) and any(map(_has_unknown, value)))
