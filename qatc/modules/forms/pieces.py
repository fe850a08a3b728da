"""Pieces of a tensor that a call gives in a tuple: a module for each piece that is read."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from qatc.calls import call_name, contains_node
from qatc.modules import ops
from qatc.modules.forms.form import plain_value


def _split(index: int, split_size_or_sections: Any, dim: int = 0) -> nn.Module:
    return ops.Split(split_size_or_sections, dim, index)


def _split_with_sizes(index: int, split_sizes: Any, dim: int = 0) -> nn.Module:
    return ops.Split(split_sizes, dim, index)


def _split_sizes(index: int, split_size: Any, dim: int = 0) -> nn.Module:
    return ops.Split(split_size, dim, index)


def _chunk(index: int, chunks: int, dim: int = 0) -> nn.Module:
    return ops.Chunk(chunks, dim, index)


def _unbind(index: int, dim: int = 0) -> nn.Module:
    return ops.Select(dim, index)


def _tensor_split(index: int, indices: Any, dim: int = 0) -> nn.Module | None:
    if not isinstance(indices, tuple) or index < 0 or dim < 0:
        return None
    bounds = (0, *indices, None)
    return ops.Slice((*[slice(None)] * dim, slice(bounds[index], bounds[index + 1])))


PIECES: Mapping[str, tuple[Callable[..., nn.Module | None], ...]] = {
    "split": (_split, _split_sizes),
    "split_with_sizes": (_split_with_sizes,),
    "chunk": (_chunk,),
    "unbind": (_unbind,),
    "tensor_split": (_tensor_split,),
}


def piece(node: fx.Node) -> tuple[str, fx.Node, nn.Module] | None:
    """Return name, tensor and module of the piece that `node` takes out of a call's result; None if it is no such."""
    whole, index = node.args
    if not isinstance(whole, fx.Node) or whole.op not in ("call_function", "call_method") or type(index) is not int:
        return None
    builders = PIECES.get(call_name(whole), ())
    kwargs = dict(whole.kwargs)
    args = list(whole.args) or [kwargs.pop("input", kwargs.pop("tensor", None))]
    if not args or not isinstance(args[0], fx.Node) or contains_node((*args[1:], *kwargs.values())):
        return None
    for build in builders:
        try:
            values = {k: plain_value(v) for k, v in kwargs.items()}
            module = build(index, *map(plain_value, args[1:]), **values)
        except TypeError:  # another spelling of the arguments
            continue
        return None if module is None else (call_name(whole), args[0], module)
    return None
