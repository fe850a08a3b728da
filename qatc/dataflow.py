"""What the data flow of a graph says of its nodes: which are its ends, how deep they lie, what values they can have."""

import math
from collections.abc import Callable, Iterable

from torch import fx

from qatc import ir
from qatc.modules.kinds import op_kind, output_range

# Ops that give values between the least and the greatest of their inputs.
KEEPS_SIGN = frozenset({
    "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceMax", "ReduceMin", "Reshape", "Transpose",
    "Slice", "Gather", "GatherElements", "Expand", "Tile", "DepthToSpace", "Concat", "Identity", "Cast",
    "Resize-nearest", "Pad",
})  # fmt: skip


def op_kind_of(node: fx.Node) -> str:
    """Return the ONNX operator of a node's module, or an empty text."""
    module = ir.module_of(node)
    return "" if module is None else op_kind(module)


def ends(graph: fx.Graph) -> tuple[set[fx.Node], set[fx.Node]]:
    """Return the layers with weights that no other such layer comes before, and those that none comes behind."""

    def frontier(nodes: list[fx.Node], reached: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
        beyond: set[fx.Node] = set()
        found: set[fx.Node] = set()
        for node in nodes:
            if any(n in beyond or n in found for n in reached(node)):
                beyond.add(node)
            elif op_kind_of(node) in ("Conv", "Gemm", "ConvTranspose"):
                found.add(node)
        return found

    nodes = list(graph.nodes)
    return frontier(nodes, lambda n: n.all_input_nodes), frontier(nodes[::-1], lambda n: n.users)


def depths(graph: fx.Graph) -> dict[fx.Node, int]:
    """Return the number of ops on the longest path to each node."""
    found: dict[fx.Node, int] = {}
    for node in graph.nodes:
        found[node] = 1 + max((found[n] for n in ir.tensor_inputs(node)), default=-1)
    return found


def least_values(graph: fx.Graph) -> dict[fx.Node, float]:
    """Return the least value that each node's tensor can have, whatever the data."""
    least: dict[fx.Node, float] = {}
    for node in graph.nodes:
        module = ir.module_of(node)
        known = None if module is None else output_range(module)
        inputs = [least[n] for n in ir.tensor_inputs(node)]
        kind = op_kind_of(node)
        if known is not None:
            least[node] = known[0]
        elif inputs and (kind in KEEPS_SIGN or (kind in ("Add", "Mul") and len(inputs) == 2 and min(inputs) >= 0)):
            least[node] = min(inputs)
        else:
            least[node] = -math.inf
    return least
