"""Activations as the ops that they are made of, for targets that run those in integers and not the whole."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import fx, nn

from qatc import ir
from qatc.errors import unknown
from qatc.modules import ops

# What x is multiplied by, by the operator that the whole is.
FACTORS: Mapping[str, Callable[[], nn.Module]] = {"Swish": nn.Sigmoid}


def take_apart(gm: fx.GraphModule, node: fx.Node, kind: str) -> fx.Node:
    """Let the node, an activation x * f(x), be the product alone, under its own name; return the node of f(x).

    Raises:
        ConfigError: nothing is known of the parts of such an operator.

    """
    if kind not in FACTORS:
        raise unknown("operator with parts", kind, FACTORS, "there are: {}")
    factor, x = FACTORS[kind](), ir.tensor_inputs(node)[0]
    path = ir.free_path(gm, f"{node.target}_{type(factor).__name__.lower()}")
    ir.set_module(gm, path, factor.train(gm.training))
    ir.set_module(gm, str(node.target), ops.Mul().train(gm.training))
    with gm.graph.inserting_before(node):
        part = gm.graph.create_node("call_module", path, (x,), name=path.replace(".", "_"))
    ir.inherit(part, node)
    ir.set_source(part, replace(ir.source_of(node), path=path))
    node.args, node.kwargs = (x, part), {}
    return part
