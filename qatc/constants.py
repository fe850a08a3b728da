"""What a graph computes from parameters, buffers and constants alone: standardised weights, tables of positions."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from qatc import ir
from qatc.quantizers.base import Quantizer

# Functions and methods that give something else at every call.
_RANDOM = frozenset({
    "bernoulli", "cauchy", "dropout", "exponential", "feature_dropout", "geometric", "log_normal", "multinomial",
    "normal", "poisson", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "random", "randperm",
    "rrelu", "uniform",
})  # fmt: skip


def constants(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that depend on no input of the model; a quantized parameter is not one of them."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op in ("placeholder", "output") or not found.issuperset(node.all_input_nodes):
            continue
        if ir.module_of(node, Quantizer) is None and not _is_random(node):
            found.add(node)
    return found


def _is_random(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name.rstrip("_") in _RANDOM


def value_of(root: nn.Module, node: fx.Node) -> Tensor:
    """Return the present value of a constant node, in eval mode and without a gradient."""
    value: Tensor = values_of(root, [node])[node]
    return value


def values_of(root: nn.Module, nodes: Iterable[fx.Node]) -> dict[fx.Node, Any]:
    """Return the present values of constant nodes."""
    wanted = list(nodes)
    needed = _in_order(wanted)
    called: list[nn.Module | None] = [ir.module_of(node) for node in needed]
    training = {m: m.training for module in called if module is not None for m in module.modules()}
    found: dict[fx.Node, Any] = {}
    try:
        for module in training:
            module.training = False
        with torch.no_grad():
            for node in needed:
                found[node] = _run(root, node, found)
    finally:
        for module, flag in training.items():
            module.training = flag
    return {node: found[node] for node in wanted}


def _in_order(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Return the nodes and all that they are computed from, in graph order."""
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return sorted(found)


def _run(root: nn.Module, node: fx.Node, found: Mapping[fx.Node, Any]) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), found.__getitem__)
    match node.op:
        case "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            return getattr(root.get_submodule(owner), name)
        case "call_module":
            return root.get_submodule(str(node.target))(*args, **kwargs)
        case "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        case _:
            function: Any = node.target
            return function(*args, **kwargs)
