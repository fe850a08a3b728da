"""The types of nodes that a pass inserts, from the types of what they read."""

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from qatc import ir
from qatc.calls import has_types, is_size

# Sizes of meta tensors cost nothing, so the batch is one that everything divides: heads, groups, windows.
_BATCHES = (720720, 2 * 720720)


def infer_type(node: fx.Node) -> ir.TensorType | None:
    """Return the type of what the node gives, a dimension that follows the batch as None; None if it cannot be known.

    The node alone is run, on tensors without data and at two batch sizes; sizes that it reads are computed from the
    types of the tensors that they are of. Unknown are tuples, and anything computed from a tensor without a type.
    """
    if not has_types(node.graph):
        return None
    found = [_run(node, batch) for batch in _BATCHES]
    if not all(isinstance(value, Tensor) for value in found):
        return None
    first, second = found
    if first.dim() != second.dim():
        return None
    shape = tuple(a if a == b else None for a, b in zip(first.shape, second.shape, strict=True))
    return ir.TensorType(first.dtype, shape)


class _UnknownError(Exception):
    """A value that is not known without running the network."""


def _run(node: fx.Node, batch: int) -> Any:
    try:
        with torch.no_grad():
            return _result(node, batch)
    except Exception:  # whatever the op raises: its own run will say so with real tensors
        return None


def _result(node: fx.Node, batch: int) -> Any:
    args, kwargs = pytree.tree_map_only(fx.Node, lambda n: _value(n, batch), (list(node.args), dict(node.kwargs)))
    match node.op:
        case "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        case "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        case "call_module":
            module = ir.module_of(node)
            assert module is not None
            return torch.func.functional_call(module, _without_data(module), tuple(args), kwargs)
        case "get_attr":
            return _attribute(node)
    raise _UnknownError(node.op)


def _value(node: fx.Node, batch: int) -> Any:
    kind = ir.tensor_type(node)
    if kind is not None:
        return torch.empty([batch if d is None else d for d in kind.shape], dtype=kind.dtype, device="meta")
    if is_size(node) or node.op in ("call_function", "call_method", "get_attr"):
        return _result(node, batch)
    raise _UnknownError(node.name)


def _attribute(node: fx.Node) -> Tensor:
    owner, _, name = str(node.target).rpartition(".")
    root = node.graph.owning_module
    found = None if root is None else getattr(ir.get_module(root, owner), name, None)
    if not isinstance(found, Tensor):
        raise _UnknownError(node.name)
    return found.to("meta")


def _without_data(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.to("meta") for name, t in (*module.named_parameters(), *module.named_buffers())}
