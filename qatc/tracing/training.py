"""What a model does in training alone: probabilities of dropout, and branches on `self.training`.

The graph is of the model in eval mode, since only there it does what is deployed; a second run in training mode tells
what it lacks.
"""

from collections import Counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from qatc import ir
from qatc.tracing.leaves import is_leaf, reads_training

_ATTENTION = F.scaled_dot_product_attention
_DROPOUT_P = 4  # its position
_DROPOUTS = (
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout,
    torch.alpha_dropout, torch.feature_dropout,
)  # fmt: skip
Key = tuple[Any, ...]


def acts_differently(root: nn.Module) -> bool:
    """Say whether code of the user's asks for `self.training` (what torch's own layers do with it is known)."""
    kinds = {type(m) for m in root.modules() if not is_leaf(m) and not isinstance(m, nn.modules.batchnorm._BatchNorm)}
    return any(reads_training(kind) for kind in kinds)


def follow(graph: fx.Graph, trained: fx.Graph) -> list[str]:
    """Give the graph the dropouts of the one of training mode; return a line for what else that does more or less."""
    mine, theirs = _keyed(graph), _keyed(trained)
    twin = {node: mine[key] for key, node in theirs.items() if key in mine}
    less = [node for key, node in mine.items() if key not in theirs]
    more: list[fx.Node] = []
    for key, node in theirs.items():
        if key in mine:
            _take_probability(mine[key], node)
        elif (same := _same_call(node, less, twin)) is not None:  # on another line: what a cache is filled with
            twin[node] = same
            less.remove(same)
        elif not (_is_dropout(node) and _insert_dropout(graph, node, twin)):
            more.append(node)
    return [*_lines(more, "only in training"), *_lines(less, "only in eval mode")]


def _same_call(trained: fx.Node, others: list[fx.Node], twin: dict[fx.Node, fx.Node]) -> fx.Node | None:
    """Return the node among the others that computes the same of the same."""
    args, kwargs = fx.map_arg((trained.args, trained.kwargs), lambda node: twin.get(node, node))
    called = (trained.op, trained.target, args, kwargs)
    return next((node for node in others if (node.op, node.target, node.args, node.kwargs) == called), None)


def _keyed(graph: fx.Graph) -> dict[Key, fx.Node]:
    """Return the nodes by what they call, where, and for the how-manieth time there."""
    seen: Counter[Key] = Counter()
    found: dict[Key, fx.Node] = {}
    for node in graph.nodes:
        key = (node.op, node.target, *_place(node))
        seen[key] += 1
        found[(*key, seen[key])] = node
    return found


def _place(node: fx.Node) -> tuple[str, str, int]:
    source = ir.source_of(node)
    return (source.path, "", 0) if node.op in ("get_attr", "placeholder") else (source.path, source.file, source.line)


def _take_probability(node: fx.Node, trained: fx.Node) -> None:
    """Give an attention, or a dropout, the probability that it has in training."""
    if node.target is _ATTENTION:
        args, kwargs = trained.args, trained.kwargs
        p = kwargs.get("dropout_p", args[_DROPOUT_P] if len(args) > _DROPOUT_P else 0.0)
        if len(node.args) > _DROPOUT_P:
            node.update_arg(_DROPOUT_P, p)
        elif p:
            node.update_kwarg("dropout_p", p)
    elif node.target in _DROPOUTS:
        for position, value in enumerate(trained.args[1:], start=1):
            node.update_arg(position, value)
        node.kwargs = {**node.kwargs, **{k: v for k, v in trained.kwargs.items() if k in ("p", "training")}}


def _is_dropout(node: fx.Node) -> bool:
    return node.target in _DROPOUTS and len(node.all_input_nodes) == 1


def _insert_dropout(graph: fx.Graph, trained: fx.Node, twin: dict[fx.Node, fx.Node]) -> bool:
    """Insert a dropout that is called in training alone; as a module it follows train() and eval() later."""
    source = twin.get(trained.args[0]) if isinstance(trained.args[0], fx.Node) else None
    if source is None:
        return False
    with graph.inserting_after(source):
        made = graph.create_node("call_function", trained.target, (source, *trained.args[1:]), dict(trained.kwargs))
    ir.inherit(made, source)
    ir.set_source(made, ir.source_of(trained))
    for user in trained.users:
        if user in twin:
            twin[user].replace_input_with(source, made)
    twin[trained] = made
    return True


def _lines(nodes: list[fx.Node], when: str) -> list[str]:
    """Return a line for each of the user's lines that computes something."""
    places: dict[tuple[str, str], None] = {}
    for node in nodes:
        counter = any(str(n.target).endswith("num_batches_tracked") for n in node.all_input_nodes)
        if (
            node.op in ("call_module", "call_function", "call_method")
            and ir.tensor_type(node) is not None
            and not counter
        ):
            source = ir.source_of(node)
            places[(source.path, source.location)] = None
    return [
        f"{location or path} runs {when}{f' (in {path})' if path and location else ''}: the prepared model does what "
        "the model does in eval mode"
        for path, location in places
    ]
