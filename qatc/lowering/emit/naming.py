"""Names by the user's modules: the node `layer1.conv/Conv`, its module's result `layer1.conv`."""

from collections import Counter
from collections.abc import Sequence

import onnx_ir

from qatc.lowering.emit.builder import scope_of

# What constants are to an operator, by their position; others are called by that.
_INPUTS = {
    ("Reshape", 1): "shape", ("Clip", 1): "min", ("Clip", 2): "max", ("Resize", 2): "scales", ("Resize", 3): "sizes",
    ("ReduceMean", 1): "axes", ("Slice", 1): "starts", ("Slice", 2): "ends", ("Slice", 3): "axes",
    ("Slice", 4): "steps", ("Pad", 1): "pads", ("Pad", 2): "value", ("Expand", 1): "shape",
}  # fmt: skip


def name_signature(graph: onnx_ir.Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name inputs and outputs; an output that is an input, a constant or another output becomes a value of its own."""
    for position, (value, name) in enumerate(zip(list(graph.outputs), outputs, strict=True)):
        if value.producer() is None or value in graph.outputs[:position]:
            node = onnx_ir.node("Identity", [value])
            graph.append(node)
            node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
            graph.outputs[position] = value = node.outputs[0]
        value.name = name
    for value, name in zip(list(graph.inputs), inputs, strict=True):
        value.name = name
        if not value.uses():
            graph.inputs.remove(value)


def name_nodes(graph: onnx_ir.Graph) -> None:
    """Name nodes, what they give, and constants without a name, which become initializers of the graph."""
    fixed = {value.name for value in (*graph.inputs, *graph.outputs)}
    outputs = set(graph.outputs)
    nodes: Counter[str] = Counter()
    values: Counter[str] = Counter()
    last = {scope_of(node): node for node in graph}
    for node in graph:
        scope = scope_of(node)
        node.name = _unique(f"{scope}/{node.op_type}" if scope else node.op_type, nodes)
        for number, value in enumerate(node.inputs):
            if value is not None and value.const_value is not None and value.graph is not graph:
                value.name = value.name or f"{node.name}/{_INPUTS.get((node.op_type, number), number)}"
                if value.name in fixed or value.name in graph.initializers:
                    value.name = f"{value.name}:value"
                graph.register_initializer(value)
    for node in graph:
        scope = scope_of(node)
        for number, value in enumerate(node.outputs):
            if value not in outputs:
                inner = node.name if len(node.outputs) == 1 else f"{node.name}:{number}"
                wanted = scope if scope and last[scope] is node and len(node.outputs) == 1 else inner
                taken = wanted in fixed or wanted in graph.initializers
                value.name = _unique(f"{wanted}:value" if taken else str(wanted), values)


def _unique(name: str, seen: Counter[str]) -> str:
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}_{seen[name] - 1}"
