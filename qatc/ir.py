"""Typed accessors to `node.meta`, and the few questions that every pass asks of a graph.

The IR is a plain `torch.fx.GraphModule`; this is the only file that knows the keys of `node.meta`.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

import networkx as nx
import torch
from torch import fx, nn

from qatc.node_values import BatchSize as BatchSize  # words of ir: everyone has them from there
from qatc.node_values import Dims as Dims
from qatc.node_values import OpenSize as OpenSize
from qatc.node_values import Source as Source
from qatc.node_values import TensorType as TensorType
from qatc.quantizers.base import Quantizer

_TYPE, _SOURCE, _WHY_FLOAT = "qatc_type", "qatc_source", "qatc_why_float"
_MOVES, _FUSED_INTO, _CLIPPED_CODES = "qatc_moves_values", "qatc_fused_into", "qatc_clipped_codes"
_NOTES, _DIMS, _BULK, _PART_OF = "qatc_notes", "qatc_dims", "qatc_bulk", "qatc_part_of"
_REPLACES = "qatc_replaces"
_NOWHERE = Source()

M = TypeVar("M", bound=nn.Module)


def tensor_type(node: fx.Node) -> TensorType | None:
    """Return what is known of the node's tensor."""
    found: TensorType | None = node.meta.get(_TYPE)
    return found


def set_tensor_type(node: fx.Node, kind: TensorType | None) -> None:
    """Record what the node's tensor is; None forgets it."""
    if kind is None:
        node.meta.pop(_TYPE, None)
    else:
        node.meta[_TYPE] = kind


def dims_of(node: fx.Node) -> Dims | None:
    """Return the sizes of the node's tensor, with what is known of those that are no numbers."""
    found: Dims | None = node.meta.get(_DIMS)
    return found


def set_dims(node: fx.Node, dims: Dims) -> None:
    """Record the sizes of the node's tensor."""
    node.meta[_DIMS] = dims


def source_of(node: fx.Node) -> Source:
    """Return where the user wrote this op."""
    found: Source = node.meta.get(_SOURCE, _NOWHERE)
    return found


def set_source(node: fx.Node, source: Source) -> None:
    """Record where the user wrote this op."""
    node.meta[_SOURCE] = source


def why_float(node: fx.Node) -> str:
    """Return the reason for which the op stays in float, or an empty text."""
    return str(node.meta.get(_WHY_FLOAT, ""))


def set_why_float(node: fx.Node, reason: str) -> None:
    """Record the reason for which the op stays in float."""
    node.meta[_WHY_FLOAT] = reason


def part_of(node: fx.Node) -> str:
    """Return the call that was taken apart into this op and others, or an empty text."""
    return str(node.meta.get(_PART_OF, ""))


def set_part_of(node: fx.Node, call: str) -> None:
    """Record the call that this op is a part of."""
    node.meta[_PART_OF] = call


def clipped_codes(node: fx.Node) -> tuple[float, float] | None:
    """Return the least and greatest value that a quantizer's codes are limited to, for a clip taken out before it."""
    found: tuple[float, float] | None = node.meta.get(_CLIPPED_CODES)
    return found


def set_clipped_codes(node: fx.Node, limits: tuple[float, float]) -> None:
    """Record that the quantizer's codes are limited in place of a clip."""
    node.meta[_CLIPPED_CODES] = limits


def bulk(node: fx.Node) -> tuple[float, float] | None:
    """Return the greatest magnitude and the root mean square that a quantized tensor was recorded with."""
    found: tuple[float, float] | None = node.meta.get(_BULK)
    return found


def set_bulk(node: fx.Node, peak_and_root: tuple[float, float]) -> None:
    """Record the greatest magnitude and the root mean square of a quantized tensor."""
    node.meta[_BULK] = peak_and_root


def fused_into(node: fx.Node) -> str:
    """Return the name of the op that the target fuses this activation into, or an empty text."""
    return str(node.meta.get(_FUSED_INTO, ""))


def set_fused_into(node: fx.Node, path: str) -> None:
    """Record the op that the target fuses this activation into."""
    node.meta[_FUSED_INTO] = path


def replaces(node: fx.Node) -> tuple[str, ...]:
    """Return the names of the nodes that passes took out, and whose place or work this one took over."""
    found: tuple[str, ...] = node.meta.get(_REPLACES, ())
    return found


def note_replaced(old: fx.Node, new: fx.Node) -> None:
    """Record that `new` takes the place of `old`, which is to go, and of all whose place that had taken."""
    gone = (*replaces(old), old.name)
    new.meta[_REPLACES] = (*replaces(new), *(name for name in gone if name not in replaces(new)))


def replace(old: fx.Node, new: fx.Node) -> None:
    """Let what reads `old` read `new`, which takes its place, and erase `old`."""
    old.replace_all_uses_with(new)
    note_replaced(old, new)
    old.graph.erase_node(old)


def notes(gm: fx.GraphModule) -> tuple[str, ...]:
    """Return what tracing had to say about the whole graph: decisions on sizes, branches left out."""
    found: tuple[str, ...] = gm.meta.get(_NOTES, ())
    return found


def set_notes(gm: fx.GraphModule, lines: Iterable[str]) -> None:
    """Record what there is to say about the whole graph."""
    gm.meta[_NOTES] = tuple(lines)


def inherit(new: fx.Node, old: fx.Node) -> None:
    """Give `new` the type and source of the node that it stands for."""
    for key in (_TYPE, _SOURCE, _WHY_FLOAT, _PART_OF):
        if key in old.meta:
            new.meta[key] = old.meta[key]


def meta_items(node: fx.Node) -> dict[str, Any]:
    """Return everything that qatc knows of a node, as plain data for a checkpoint."""
    kind, source = tensor_type(node), source_of(node)
    return {
        "type": None if kind is None else [str(kind.dtype).removeprefix("torch."), list(kind.shape)],
        "source": [source.path, source.file, source.line],
        "why_float": why_float(node),
        "moves": moves_values(node),
        "fused_into": fused_into(node),
        "part_of": part_of(node),
        "bulk": None if bulk(node) is None else list(bulk(node) or ()),
        "replaces": list(replaces(node)),
    }


def set_meta_items(node: fx.Node, items: dict[str, Any]) -> None:
    """Take back what `meta_items` returned."""
    if items["type"] is not None:
        name, shape = items["type"]
        set_tensor_type(node, TensorType(getattr(torch, name), tuple(shape)))
    set_source(node, Source(*items["source"]))
    set_why_float(node, items["why_float"])
    set_moves_values(node, items["moves"])
    set_fused_into(node, items["fused_into"])
    set_part_of(node, items.get("part_of", ""))  # files of before it was recorded have none
    if items.get("bulk") is not None:  # files of before it was recorded have none
        peak, root = items["bulk"]
        set_bulk(node, (float(peak), float(root)))
    if items.get("replaces"):
        node.meta[_REPLACES] = tuple(map(str, items["replaces"]))


def module_of(node: Any, kind: type[M] | tuple[type[M], ...] = nn.Module) -> M | None:  # type: ignore[assignment]
    """Return the module that a `call_module` node calls, if it is of that kind."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or node.graph.owning_module is None:
        return None
    found = get_module(node.graph.owning_module, str(node.target))
    return found if isinstance(found, kind) else None


def get_module(root: nn.Module, path: str) -> nn.Module | None:
    """Return the submodule at a dotted path, or None."""
    at = root
    for name in path.split(".") if path else ():
        found = at._modules.get(name)  # get_submodule takes three times as long, and this is asked of every node
        if found is None:
            return None
        at = found
    return at


def set_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a dotted path, making the containers on the way."""
    *parents, name = path.split(".")
    at = root
    for parent in parents:
        if not isinstance(at._modules.get(parent), nn.Module):
            at.add_module(parent, nn.Module())
        at = at.get_submodule(parent)
    at.add_module(name, module)


def numbered(wanted: str, taken: Collection[str]) -> str:
    """Return `wanted`, or the first of `wanted_1`, `wanted_2`, ... that is not taken."""
    name, n = wanted, 0
    while name in taken:
        n += 1
        name = f"{wanted}_{n}"
    return name


def free_path(root: nn.Module, wanted: str) -> str:
    """Return `wanted`, or the first of `wanted_1`, `wanted_2`, ... that names nothing yet."""
    path, n = wanted, 0
    while get_module(root, path) is not None or _is_attribute(root, path):
        n += 1
        path = f"{wanted}_{n}"
    return path


def _is_attribute(root: nn.Module, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    owner = get_module(root, parent)
    return owner is not None and hasattr(owner, name)


def scoped(node: fx.Node, name: str) -> str:
    """Return the path of something new inside the user's module that made the node's call."""
    scope = source_of(node).path
    inside = None if node.graph.owning_module is None else get_module(node.graph.owning_module, scope)
    is_layer = type(inside) is not nn.Module and type(inside).__module__.startswith("torch.nn.")  # no mere container
    if inside is not None and is_layer and not any(inside.children()):
        scope = scope.rpartition(".")[0]  # whose call made an attribute of its argument a node
    return f"{scope}.{name}" if scope else name


def insert_module_call(gm: fx.GraphModule, after: fx.Node, path: str, *args: Any) -> fx.Node:
    """Insert a call of the module at `path` behind `after`, named by the path."""
    with gm.graph.inserting_after(after):
        node = gm.graph.create_node("call_module", path, args, name=path.replace(".", "_"))
    inherit(node, after)
    return node


def module_calls(gm: fx.GraphModule) -> Iterator[tuple[fx.Node, nn.Module]]:
    """Yield every `call_module` node with its module, in graph order."""
    for node in gm.graph.nodes:
        module = module_of(node)
        if module is not None:
            yield node, module


def referenced_module(arg: Any) -> nn.Module | None:
    """Return the module that an argument refers to, where it is a `get_attr` of a module (a BatchNorm, a bias grid)."""
    if not isinstance(arg, fx.Node) or arg.op != "get_attr" or arg.graph.owning_module is None:
        return None
    return get_module(arg.graph.owning_module, str(arg.target))


def module_reference(gm: fx.GraphModule, path: str, before: fx.Node) -> fx.Node:
    """Return a node that yields the module at `path` itself, to be passed to another module."""
    with gm.graph.inserting_before(before):
        node = gm.graph.create_node("get_attr", path, name=path.replace(".", "_") + "_ref")
    set_source(node, Source(path))
    return node


# Arguments of these names are a module's own tensors, given to it by the graph; all others are data that it reads.
GIVEN = ("weight", "bias", "running_mean", "running_var")


def given_tensors(node: fx.Node) -> dict[str, fx.Node]:
    """Return the weight, bias and statistics that a module is given by the graph, by name."""
    if node.op != "call_module":
        return {}
    return {name: node.kwargs[name] for name in GIVEN if isinstance(node.kwargs.get(name), fx.Node)}  # type: ignore[misc]


def tensor_inputs(node: fx.Node) -> list[fx.Node]:
    """Return the nodes whose tensors this one reads: module references, given weights, plain values are left out."""
    given = given_tensors(node)
    inputs = node.all_input_nodes
    if given:
        found: dict[fx.Node, None] = {}
        kwargs = {name: value for name, value in node.kwargs.items() if name not in given}
        fx.map_arg((node.args, kwargs), found.setdefault)
        inputs = list(found)
    return [n for n in inputs if referenced_module(n) is None]


def replace_input(node: fx.Node, old: fx.Node, new: fx.Node) -> None:
    """Let the node read `new` where it read `old`; the weights that it is given stay."""
    given = given_tensors(node)
    node.replace_input_with(old, new)
    node.kwargs = {**node.kwargs, **given}


def only_user(node: fx.Node) -> fx.Node | None:
    """Return the one reader of this node, or None where there are none or several."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def set_moves_values(node: fx.Node, moves: bool) -> None:
    """Record whether the op only moves values, so that its result lies on its input's grid."""
    node.meta[_MOVES] = moves


def moves_values(node: fx.Node) -> bool:
    """Say whether the op only moves values on this target."""
    return bool(node.meta.get(_MOVES))


def grid_source(node: Any) -> fx.Node | None:
    """Return the quantizer call whose grid the node's tensor lies on, seen through ops that only move values."""
    while isinstance(node, fx.Node):
        if module_of(node, Quantizer) is not None:
            return node
        if not moves_values(node):
            return None
        node = node.args[0]  # further tensors are positions or sizes; several tensors (a concatenation) are no node
    return None


def network(gm: fx.GraphModule) -> "nx.DiGraph[fx.Node]":
    """Return the data flow as a networkx graph of nodes."""
    graph: nx.DiGraph[fx.Node] = nx.DiGraph()
    graph.add_nodes_from(gm.graph.nodes)
    graph.add_edges_from((source, node) for node in gm.graph.nodes for source in node.all_input_nodes)
    return graph


def prune(gm: fx.GraphModule) -> None:
    """Drop references and modules that nothing uses any more, and regenerate the module's code."""
    for node in reversed(gm.graph.nodes):
        if node.op == "get_attr" and not node.users:
            gm.graph.erase_node(node)
    gm.delete_all_unused_submodules()
    gm.recompile()
