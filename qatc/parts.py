"""Activations x * f(x): as the two ops that they are made of, or those two as the one."""

from collections.abc import Mapping
from dataclasses import replace

from torch import fx, nn

from qatc import ir
from qatc.errors import unknown
from qatc.modules import ops

# By the operator: f, and the whole.
PARTS: Mapping[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "Swish": (nn.Sigmoid, nn.SiLU),
    "HardSwish": (nn.Hardsigmoid, nn.Hardswish),
}


def parts_of(kind: str) -> tuple[type[nn.Module], type[nn.Module]]:
    """Return f and the whole of an operator; a `ConfigError` where they are not known."""
    if kind not in PARTS:
        raise unknown("operator with parts", kind, PARTS, "there are: {}")
    return PARTS[kind]


def take_apart(gm: fx.GraphModule, node: fx.Node, kind: str) -> fx.Node:
    """Let the node, an activation x * f(x), be the product alone, under its own name; return the node of f(x)."""
    factor, _ = parts_of(kind)
    x = ir.tensor_inputs(node)[0]
    path = ir.free_path(gm, f"{node.target}_{factor.__name__.lower()}")
    ir.set_module(gm, path, factor().train(gm.training))
    ir.set_module(gm, str(node.target), ops.Mul().train(gm.training))
    with gm.graph.inserting_before(node):
        part = gm.graph.create_node("call_module", path, (x,), name=path.replace(".", "_"))
    ir.inherit(part, node)
    ir.set_source(part, replace(ir.source_of(node), path=path))
    node.args, node.kwargs = (x, part), {}
    return part


def put_together(gm: fx.GraphModule, node: fx.Node, kind: str) -> bool:
    """Let a product x * f(x) be the whole, under its own name, if nothing else reads f(x); say whether it is."""
    factor, whole = parts_of(kind)
    inputs = ir.tensor_inputs(node)
    if ir.module_of(node, ops.Mul) is None or len(inputs) != 2:
        return False
    for x, part in (inputs, inputs[::-1]):
        if ir.module_of(part, factor) is not None and ir.tensor_inputs(part) == [x] and ir.only_user(part) is node:
            ir.set_module(gm, str(node.target), whole().train(gm.training))
            node.args, node.kwargs = (x,), {}
            gm.graph.erase_node(part)
            return True
    return False
