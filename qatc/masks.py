"""Tensors that mask attention: they hold infinities, or numbers as good as that, which no grid can hold beside others.

Found in two ways. Forward: what is computed from a huge constant. Backward from each softmax: the sums of scores (which
come from a product of two tensors) and of what is added to them, masks that the user passes in among it.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from qatc import ir
from qatc.calls import call_name
from qatc.modules import ops
from qatc.modules.kinds import op_kind

# Values of networks stay far below; masks are written with -1e4 (half precision), -1e9, finfo.min or -inf.
HUGE = 1e4
_MAKE = frozenset({
    "add", "fill", "full", "full_like", "masked_fill", "mul", "new_full", "scalar_tensor", "sub", "tensor", "where",
    "Add", "Sub", "Mul", "ScatterND", "Pad-constant",
})  # fmt: skip
_KEEP_SHAPED = frozenset({"Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Tile", "Transpose"})
_KEEP = _KEEP_SHAPED | _MAKE | frozenset({
    "Max", "Min", "clone", "expand_as", "getitem", "index", "masked_fill", "repeat", "to", "tril", "triu", "type_as",
    "unbind", "where",
})  # fmt: skip
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "linear", "conv2d", "bmm"})


def masks(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that give masks, or scores with masks on them."""
    return _huge(graph) | _added(graph)


def _kind(node: fx.Node) -> str:
    module = ir.module_of(node)
    return call_name(node) if module is None else op_kind(module)


def _is_float(node: fx.Node) -> bool:
    kind = ir.tensor_type(node)
    return kind is None or kind.dtype.is_floating_point


def _huge(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes computed from a huge constant by ops that keep it."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        kind = _kind(node)
        made = kind in _MAKE and any(map(_is_huge, _constants(node)))
        kept = kind in _KEEP and any(n in found for n in node.all_input_nodes)
        if _is_float(node) and (made or kept or (node.op == "get_attr" and _holds_huge(node))):
            found.add(node)
    return found


def _constants(node: fx.Node) -> Iterable[Any]:
    module = ir.module_of(node)
    padding = getattr(module, "value", None)
    return (*node.args, *node.kwargs.values(), padding)


def _is_huge(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) >= HUGE


def _holds_huge(node: fx.Node) -> bool:
    root, (owner, _, name) = node.graph.owning_module, str(node.target).rpartition(".")
    value = None if root is None else getattr(ir.get_module(root, owner), name, None)
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel() or value.is_meta:
        return False
    return bool((value.detach().abs() >= HUGE).any())


def _added(graph: fx.Graph) -> set[fx.Node]:
    """Return the sums in front of each softmax, and what is read for nothing but to be added there."""
    scores = _scores(graph)
    sums: set[fx.Node] = set()
    softmaxes: set[fx.Node] = set()
    tops: list[fx.Node] = []
    for node in graph.nodes:
        if isinstance(ir.module_of(node), ops.MaskedSoftmax):
            softmaxes.add(node)
            tops += [n for n in node.args[1:] if isinstance(n, fx.Node)]
        elif _kind(node) == "Softmax":
            tops += _addends(node.args[0], scores, sums)
    return sums | _only_for(tops, sums | softmaxes)


_SCALE = _KEEP_SHAPED | {"Add", "Sub", "Mul", "Div", "masked_fill"}


def _scores(graph: fx.Graph) -> set[fx.Node]:
    """Return the products of two tensors, and those scaled, reshaped or with something added."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        kind = _kind(node)
        if kind == "MatMul" or (kind in _SCALE and any(n in found for n in node.all_input_nodes)):
            found.add(node)
    return found


def _addends(node: Any, scores: set[fx.Node], sums: set[fx.Node]) -> list[fx.Node]:
    """Return what is added to the scores in a softmax's input; the sums themselves are put into `sums`."""
    if not isinstance(node, fx.Node) or node not in scores or node in sums or _kind(node) == "MatMul":
        return []
    if _kind(node) not in ("Add", "Sub"):
        return _addends(node.args[0], scores, sums)
    sums.add(node)
    added = [n for n in node.all_input_nodes if n not in scores]
    return added + [a for n in node.all_input_nodes for a in _addends(n, scores, sums)]


def _only_for(tops: list[fx.Node], readers: set[fx.Node]) -> set[fx.Node]:
    """Return the nodes up to `tops`, from ops with weights on, that are read on the way to these readers alone."""
    found: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    waiting = list(tops)
    while waiting:
        node = max(waiting)  # behind all others, so that its readers are decided
        waiting = [n for n in waiting if n is not node]
        if node in seen or _kind(node) in _WEIGHTED or not _is_float(node):
            continue
        seen.add(node)
        if all(user in found or user in readers for user in node.users):
            found.add(node)
            waiting += ir.tensor_inputs(node)
    return found
