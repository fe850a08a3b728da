"""The graph as plain data, and back.

fx turns a graph into Python source, so a node is built only of names that are names, paths that exist, callables that
are allowed, and values of exactly known types.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from qatc import ir
from qatc.checkpoint.names import Allowed, function_name, identifier, member_name
from qatc.checkpoint.plain import READERS, NotPlainError, decode, encode, not_plain
from qatc.errors import CheckpointError

Data = dict[str, Any]


def graph_data(gm: fx.GraphModule) -> list[Data]:
    """Return the nodes in order."""
    if type(gm.graph._codegen) is not fx.graph.CodeGen:
        raise CheckpointError(
            f"the graph has a calling convention of its own ({type(gm.graph._codegen).__name__})",
            remedy="save a model that qatc.prepare returned",
        )
    return [_node_data(node) for node in gm.graph.nodes]


def _node_data(node: fx.Node) -> Data:
    where = f"%{node.name} {ir.source_of(node)}".rstrip()
    try:
        return {
            "name": node.name,
            "op": node.op,
            "target": function_name(node.target) if node.op == "call_function" else str(node.target),
            "args": [encode(arg, _reference) for arg in node.args],
            "kwargs": {name: encode(value, _reference) for name, value in node.kwargs.items()},
            "meta": encode(ir.meta_items(node)),
        }
    except NotPlainError as error:
        raise CheckpointError(
            f"an argument of %{node.name} cannot be saved: it is a {error}",
            where=where,
            remedy="pass plain values: numbers, texts, lists, tuples, dicts, slices, dtypes, devices",
        ) from error
    except CheckpointError as error:
        raise CheckpointError(error.what, where=where, remedy=error.remedy) from error


def _reference(value: Any) -> Any:
    return {"node": value.name} if isinstance(value, fx.Node) else not_plain(value)


def build_graph(data: Sequence[Data], root: nn.Module, allowed: Allowed) -> fx.Graph:
    """Return the graph that `graph_data` described, over the modules and tensors of `root`."""
    reader = _Reader(root, allowed)
    for node in data:
        reader.add(node)
    if [node["op"] for node in data].index("output") != len(data) - 1:
        raise CheckpointError("the file is damaged: its graph goes on behind the output")
    return reader.graph


class _Reader:
    """Builds the graph node by node; a node can only read those before it."""

    def __init__(self, root: nn.Module, allowed: Allowed) -> None:
        self.graph = fx.Graph()
        self.root, self.allowed = root, allowed
        self.nodes: dict[str, fx.Node] = {}

    def add(self, data: Data) -> None:
        """Add the node that the data describes."""
        readers = {**READERS, "node": self.nodes.__getitem__}
        args = tuple(decode(arg, readers) for arg in data["args"])
        kwargs = {identifier(name): decode(value, readers) for name, value in data["kwargs"].items()}
        target = self._target(data["op"], data["target"], args)
        name = identifier(data["name"])
        node = self.graph.create_node(data["op"], target, args, kwargs, name)
        if node.name != name:
            raise CheckpointError(f"the file is damaged: {name!r} cannot be the name of a node")
        self.nodes[name] = node
        set_meta(node, data["meta"])

    def _target(self, op: str, target: str, args: Sequence[Any]) -> Any:
        match op:
            case "placeholder":
                identifier(target.removeprefix("*").removeprefix("*"))
                return target
            case "call_module":
                return _existing(target, self.root, nn.Module)
            case "get_attr":
                return _existing(target, self.root, (nn.Module, Tensor))
            case "call_method":
                self._check_first(op, args)
                return self.allowed.method(target)
            case "call_function":
                function = self.allowed.function(target)
                if function is getattr:
                    self._check_first("getattr", args)
                    self.allowed.attribute(args[1])
                return function
            case "output":
                return "output"
        raise CheckpointError(f"the file is damaged: {str(op)[:60]!r} is no kind of node")

    @staticmethod
    def _check_first(what: str, args: Sequence[Any]) -> None:
        # On a text, a method such as `format` would reach any attribute of its arguments.
        if not args or not isinstance(args[0], fx.Node):
            raise CheckpointError(f"the file is damaged: a {what} is not of a value of the graph")


def _existing(path: str, root: nn.Module, kind: type | tuple[type, ...]) -> str:
    """Return the path if the generated code finds by it the very member that it names.

    A submodule named `forward` would give the code the method instead, and with it a way to all of Python.
    """
    at: Any = root
    for part in path.split("."):
        found = _member(at, member_name(part))
        if found is None or getattr(at, part, None) is not found:
            raise CheckpointError(f"the file is damaged: its graph uses {path!r}, which the model does not have")
        at = found
    if not isinstance(at, kind):
        raise CheckpointError(f"the file is damaged: its graph calls {path!r}, which is no module")
    return path


def _member(owner: Any, name: str) -> Any:
    if not isinstance(owner, nn.Module):
        return None
    members = (owner._modules, owner._parameters, owner._buffers)
    return next((found[name] for found in members if found.get(name) is not None), None)


def set_meta(node: fx.Node, data: Any) -> None:
    """Give the node what a checkpoint says of it, if that is what it should be."""
    for text in _texts(data):
        # With FX_GRAPH_SHOW_META set, fx writes this into the source, between triple quotes.
        if '"""' in text:
            raise CheckpointError(f"the file is damaged: %{node.name} is described by {text[:60]!r}")
    ir.set_meta_items(node, decode(data))
    kind, source = ir.tensor_type(node), ir.source_of(node)
    shape = () if kind is None else kind.shape
    if (kind is not None and not isinstance(kind.dtype, torch.dtype)) or any(
        type(d) not in (int, type(None)) for d in shape
    ):
        raise CheckpointError(f"the file is damaged: %{node.name} has a type that is none")
    if [type(part) for part in (source.path, source.file, source.line)] != [str, str, int]:
        raise CheckpointError(f"the file is damaged: %{node.name} has a source that is none")


def _texts(data: Any) -> list[str]:
    if isinstance(data, dict):
        return [text for pair in data.items() for part in pair for text in _texts(part)]
    if isinstance(data, list):
        return [text for part in data for text in _texts(part)]
    return [data] if isinstance(data, str) else []
