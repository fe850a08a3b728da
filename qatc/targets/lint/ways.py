"""The way from an op to the codes that it reads and to those that it writes, as integer kernels see it.

A runtime that carries Q and DQ past ops that only move values joins them to the kernels on the other side.
"""

from dataclasses import dataclass

from qatc.targets.lint.graph import GraphView, Node
from qatc.targets.lint.qdq import is_dq, is_q

CLAMPS = frozenset({"Clip", "Relu"})
# What ONNX Runtime's QDQPropagation looks through; Identity and the like are gone before it runs.
PROPAGATED = frozenset({"MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
LOOKED_THROUGH = PROPAGATED | {"Cast", "Dropout", "Identity"}


def dequantizer_of(view: GraphView, tensor: str) -> Node | None:
    """Return the DQ that an op's kernel would take its codes from, past what propagation looks through."""
    maker = view.producer(view.source(tensor, LOOKED_THROUGH))
    return maker if is_dq(maker) else None


@dataclass(frozen=True)
class Way:
    """Where a float result goes: past clamps and moves to Qs, or to something that reads it in float."""

    clamps: tuple[Node, ...]
    quantizers: tuple[Node, ...]
    problem: str = ""


def way_of(view: GraphView, node: Node) -> Way:
    """Follow a result to the Qs that a kernel could write codes for."""
    clamps = [node] if node.op in CLAMPS else []
    tensor = node.output
    while True:
        found = view.consumers(tensor)
        if view.escapes(tensor):
            return Way(tuple(clamps), (), f"its result '{tensor}' leaves the graph as floats")
        if not found:
            return Way(tuple(clamps), ())
        quantizers = tuple(filter(is_q, found))
        if len(quantizers) == len(found):
            return Way(tuple(clamps), quantizers)
        if len(found) > 1:
            strangers = ", ".join(reader.name for reader in found if reader not in quantizers)
            return Way(tuple(clamps), (), f"its float result goes to {strangers} and others")
        (reader,) = found
        if reader.op in CLAMPS:
            clamps.append(reader)
        elif reader.op not in LOOKED_THROUGH or tensor not in reader.inputs[:1]:
            return Way(tuple(clamps), (), f"its float result goes to {reader.op} '{reader.name}'")
        tensor = reader.output
