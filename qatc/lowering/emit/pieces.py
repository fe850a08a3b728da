"""What the table has no form for: each connected run of such nodes is a piece, which torch's exporter writes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import networkx as nx
import onnx
import onnx_ir
from torch import fx

from qatc import ir
from qatc.calls import is_size
from qatc.lowering.emit.builder import Value, set_scope
from qatc.lowering.emit.exporter import exported

_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Piece:
    """Nodes in the graph's order, the tensors that they read from elsewhere, and those that are read elsewhere."""

    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]


def export_pieces(
    gm: fx.GraphModule, missing: set[fx.Node], values: dict[fx.Node, Value], opset: int
) -> list[onnx_ir.Node]:
    """Return the nodes of what is missing, in no order between pieces, and give those that read it its values."""
    made: list[onnx_ir.Node] = []
    known: dict[Any, bytes] = {}
    modules = {name for name, _ in gm.named_modules()}
    for piece in pieces(gm.graph, missing):
        part = module_of(gm, piece)
        key = _key(part, piece)
        if key in known:
            model = onnx_ir.from_proto(onnx.ModelProto.FromString(known[key]))
        else:
            model = exported(part, piece.inputs, piece.nodes, opset)
            if key is not None:
                known[key] = onnx_ir.to_proto(model).SerializeToString()
        made += _spliced(model.graph, piece, values, modules)
    return made


def pieces(graph: fx.Graph, missing: set[fx.Node]) -> Iterator[Piece]:
    """Yield the connected runs of missing nodes, such that none reads, through others, what it gives itself."""
    level: dict[fx.Node, int] = {}
    links: nx.Graph[fx.Node] = nx.Graph()
    links.add_nodes_from(node for node in graph.nodes if node in missing)
    for node in graph.nodes:
        # It grows wherever a path enters or leaves a piece: two nodes of one level have nothing else between them.
        level[node] = max((level[i] + ((i in missing) != (node in missing)) for i in node.all_input_nodes), default=0)
        if node in missing:
            links.add_edges_from((i, node) for i in node.all_input_nodes if i in missing and level[i] == level[node])
    order = {node: position for position, node in enumerate(graph.nodes)}
    for run in sorted((sorted(run, key=order.__getitem__) for run in nx.connected_components(links)),
                      key=lambda run: order[run[0]]):  # fmt: skip
        inputs = dict.fromkeys(i for node in run for i in _tensors_read(node) if i not in run)
        outputs = [n for n in run if ir.tensor_type(n) is not None and not set(n.users) <= set(run)]
        yield Piece(tuple(run), tuple(inputs), tuple(outputs))


def _tensors_read(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the tensors that a node reads, and those that the sizes are of that it reads."""
    for read in node.all_input_nodes:
        if is_size(read):
            yield from _tensors_read(read)
        else:
            yield read


def module_of(gm: fx.GraphModule, piece: Piece) -> fx.GraphModule:
    """Return a piece as a module of its own."""
    graph = fx.Graph()
    twins = {node: graph.placeholder(f"x{number}") for number, node in enumerate(piece.inputs)}

    def twin(node: fx.Node) -> fx.Node:
        if node not in twins:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), twin)
            twins[node] = graph.create_node(node.op, node.target, args, kwargs)
            # The exporter names scopes by this; tracing left the module that the op was first seen in.
            path = str(node.target) if node.op == "call_module" else ""
            twins[node].meta["nn_module_stack"] = {path: (path, type(gm.get_submodule(path)))}
        return twins[node]

    for node in piece.nodes:
        twin(node)
    graph.output(tuple(twins[node] for node in piece.outputs))
    return fx.GraphModule(gm, graph)


def _key(part: fx.GraphModule, piece: Piece) -> Any:
    """Return what is the same for equal pieces; None for those with modules, which may have weights of their own."""
    if any(node.op == "call_module" for node in piece.nodes):
        return None
    return part.code, tuple((ir.tensor_type(node), ir.dims_of(node)) for node in piece.inputs)


def _spliced(graph: onnx_ir.Graph, piece: Piece, values: dict[fx.Node, Value], modules: set[str]) -> list[onnx_ir.Node]:
    """Take the nodes of an exported piece out of its graph, reading and giving the values of ours."""
    given = dict(zip(graph.inputs, (values[node] for node in piece.inputs), strict=True))
    gives = [given.get(value, value) for value in graph.outputs]
    graph.outputs.clear()
    for value, ours in given.items():
        onnx_ir.convenience.replace_all_uses_with(value, ours)
    for node, value in zip(piece.outputs, gives, strict=True):
        onnx_ir.convenience.replace_all_uses_with(values[node], value)
        value.shape, value.type = values[node].shape, values[node].type
        values[node] = value
    nodes = list(graph)
    graph.remove(nodes)
    for name, constant in list(graph.initializers.items()):
        del graph.initializers[name]
        constant.name = name if "." in name else None
    for written in nodes:
        set_scope(written, _scope(written, modules) or piece.nodes[-1].name)
        written.metadata_props.clear()
        written.doc_string = None
    return nodes


def _scope(node: onnx_ir.Node, modules: set[str]) -> str:
    """Return the innermost of the user's modules that the node comes from."""
    paths = [part.strip(" '\"[]") for part in node.metadata_props.get(_SCOPES, "[]").split(",")]
    return next((path for path in reversed(paths) if path in modules), "")
