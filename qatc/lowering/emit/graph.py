"""The walk over the lowered graph: what each of its nodes is in the file."""

import inspect
from typing import Any

import onnx_ir
from onnx_ir.passes import common
from torch import Tensor, fx

from qatc import ir
from qatc.calls import is_size
from qatc.lowering.emit.builder import Builder, DeclinedError, Value, typed
from qatc.lowering.emit.functions import FUNCTIONS
from qatc.lowering.emit.naming import name_nodes, name_signature
from qatc.lowering.emit.narrow import narrow
from qatc.lowering.emit.padding import give_padding_to_convolutions
from qatc.lowering.emit.pieces import export_pieces
from qatc.lowering.emit.sizes import size_of
from qatc.lowering.emit.table import form_of
from qatc.lowering.flatten_outputs import output_nodes
from qatc.modules.functional_forms import FORMS
from qatc.passes.functional_to_module import as_module


def emitted(gm: fx.GraphModule, opset: int) -> onnx_ir.Model:
    """Return the ONNX model of a lowered graph whose inputs and outputs are flat, and whose tensors have types.

    Raises `LoweringError` where torch's exporter has no form either for what is not in the table.
    """
    walk = _Walk(gm)
    for node in gm.graph.nodes:
        walk.visit(node)
    pieces = export_pieces(gm, walk.missing, walk.values, opset)
    named = output_nodes(gm)
    inputs = {str(n.target): walk.values[n] for n in gm.graph.nodes if n.op == "placeholder"}
    graph = onnx_ir.Graph(
        list(inputs.values()), [walk.values[node] for node in named.values()],
        nodes=[*walk.builder.nodes, *pieces], opset_imports={"": opset}, name="main",
    )  # fmt: skip
    give_padding_to_convolutions(graph)
    if pieces:
        graph.sort()
    model = onnx_ir.Model(graph, ir_version=10)
    common.RemoveUnusedNodesPass()(model)
    name_signature(graph, list(inputs), list(named))
    name_nodes(graph)
    narrow(graph, opset)
    return model


class _Walk:
    """The nodes seen so far with their values; those that the table does not know are `missing`."""

    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm, self.builder = gm, Builder(gm, form_of)
        self.values: dict[fx.Node, Value] = {}
        self.missing: set[fx.Node] = set()

    def visit(self, node: fx.Node) -> None:
        """Write one node."""
        kind = ir.tensor_type(node)
        if node.op == "placeholder" and kind is not None:
            self.values[node] = typed(Value(), kind, ir.dims_of(node))
        elif node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            tensor = getattr(self.gm.get_submodule(owner), name)
            if isinstance(tensor, Tensor):
                self.values[node] = self.builder.parameter(str(node.target), tensor)
        elif node.op != "output" and not is_size(node):
            value = None if kind is None else self._written(node, kind)
            if value is None:
                self.missing.add(node)
            if kind is not None:
                self.values[node] = typed(Value(), kind, ir.dims_of(node)) if value is None else value

    def _written(self, node: fx.Node, kind: ir.TensorType) -> Value | None:
        """Return what the node gives, or None where the table has no form for it."""
        builder = self.builder
        builder.scope, builder.gives = str(node.target) if node.op == "call_module" else node.name, kind
        before = len(builder.nodes)
        try:
            y = self._call(node)
        except DeclinedError:
            builder.undo(before)
            return None
        return typed(y, kind, ir.dims_of(node)) if y.producer() in builder.nodes[before:] else y

    def _call(self, node: fx.Node) -> Value:
        if node.op == "call_module":
            args, kwargs = fx.node.map_arg((list(node.args), dict(node.kwargs)), self._given)
            return self.builder.call(self.gm.get_submodule(str(node.target)), *args, **kwargs)
        for form in FORMS:
            found = as_module(form, node) if node.target in form.targets else None
            if found is not None:
                module, tensors, computed = found
                args, kwargs = fx.node.map_arg((list(tensors), computed), self._given)
                return self.builder.call(module, *args, **kwargs)
        function = FUNCTIONS.get(node.target)
        args, kwargs = fx.node.map_arg((list(node.args), dict(node.kwargs)), self._given)
        if function is None or not _takes(function, args, kwargs):
            raise DeclinedError
        return function(self.builder, *args, **kwargs)

    def _given(self, node: fx.Node) -> Any:
        """Return what an argument is: a value, or sizes."""
        if node in self.values:
            return self.values[node]
        if is_size(node):
            return size_of(self.builder, node, self._given)
        raise DeclinedError  # several tensors


def _takes(function: Any, args: list[Any], kwargs: dict[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(None, *args, **kwargs)
    except TypeError:
        return False
    return True
