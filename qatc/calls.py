"""What a call of a graph gives, as far as it can be told: a tensor, several, or a size."""

import operator
from typing import Any

from torch import Tensor, fx

from qatc import ir

# Functions and methods that give several tensors in a tuple.
GIVE_SEVERAL = frozenset({
    "aminmax", "chunk", "cummax", "cummin", "kthvalue", "meshgrid", "median", "mode", "sort", "split", "std_mean",
    "tensor_split", "topk", "unbind", "var_mean",
})  # fmt: skip
_SIZE_METHODS = frozenset({"size", "dim", "numel", "nelement", "ndimension", "item"})
_SIZE_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device"})


def call_name(node: fx.Node) -> str:
    """Return the name of the function or method that the node calls."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def is_size(node: fx.Node) -> bool:
    """Say whether the node is a size, or computed from sizes alone."""
    if ir.tensor_type(node) is not None:
        return False
    if node.op == "call_method" and node.target in _SIZE_METHODS:
        return True
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in _SIZE_ATTRIBUTES
    inputs = node.all_input_nodes
    return node.op == "call_function" and bool(inputs) and all(is_size(n) for n in inputs)


def is_tensor(value: Any) -> bool:
    """Say whether an argument is a tensor of the graph, as far as is known (sizes are not)."""
    if isinstance(value, list | tuple):
        return bool(value) and all(is_tensor(v) for v in value)
    if not isinstance(value, fx.Node):
        return False
    return ir.tensor_type(value) is not None or not is_size(value)


def may_be_tensor(node: fx.Node) -> bool:
    """Say whether the node gives a tensor; where types are not known, whether it may."""
    if ir.tensor_type(node) is not None:
        return True
    if node.op == "placeholder" and node.args and isinstance(node.args[0], int | float | str):
        return False  # an argument whose default is a plain value
    return not (has_types(node.graph) or is_size(node) or call_name(node) in GIVE_SEVERAL)


def has_types(graph: fx.Graph) -> bool:
    """Say whether types are known: the model was traced with example inputs."""
    return any(ir.tensor_type(n) is not None for n in graph.nodes)


def takes_from_container(node: fx.Node) -> bool:
    """Say whether the node only takes a tensor out of an argument, or puts tensors into a container: no op on them."""
    if isinstance(node.target, type):
        return True
    source = node.args[0] if node.target in (operator.getitem, getattr) else None
    if not isinstance(source, fx.Node) or not (source.op == "placeholder" or takes_from_container(source)):
        return False
    if ir.tensor_type(node) is not None:
        return ir.tensor_type(source) is None
    key = node.args[1]
    return isinstance(key, str) and (node.target is operator.getitem or not hasattr(Tensor, key))


def contains_node(value: Any) -> bool:
    """Say whether a value is, or holds, a node."""
    if isinstance(value, slice):
        return any(map(contains_node, (value.start, value.stop, value.step)))
    return isinstance(value, fx.Node) or (isinstance(value, tuple | list) and any(map(contains_node, value)))
