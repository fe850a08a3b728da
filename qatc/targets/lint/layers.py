"""Rules of runtimes that give every layer's result a grid, and none inside the groups that one layer computes."""

from collections.abc import Collection, Iterator, Mapping

from qatc.targets.lint.graph import GraphView, Node
from qatc.targets.lint.qdq import biased, is_dequantized, is_dq, is_q, readers, unquantized
from qatc.targets.lint.rule import Violations
from qatc.targets.lint.tensorrt_fusion import self_gated
from qatc.targets.lint.tensorrt_placement import float_chains

Groups = Mapping[str, Collection[str]]


def groups_have_no_pair(view: GraphView, *, fused: Groups) -> Violations:
    """No Q/DQ stands between an op and the one that is fused to it (`fused`: what may follow what)."""
    for q in filter(is_q, view.nodes):
        made = view.producer(q.input(0))
        behind = readers(view, q.output)
        if made is None or len(behind) != 1 or view.consumers(q.input(0)) != (q,) or view.escapes(q.input(0)):
            continue
        if behind[0].op in fused.get(made.op, ()):
            yield q, f"splits '{made.name}' from '{behind[0].name}'; move the pair behind '{behind[0].name}'"


def patterns_have_no_pair(view: GraphView, *, kinds: Collection[str]) -> Violations:
    """Inside a LayerNorm, GELU or SiLU that is written out there is no Q/DQ; one stands at its end."""
    found = _patterns(view, kinds)
    for q in filter(is_q, view.nodes):
        made = view.producer(q.input(0))
        behind = set(readers(view, q.output))
        end = next((nodes[-1] for nodes in found if made in nodes[:-1] and behind and behind <= set(nodes)), None)
        if end is not None:
            yield q, f"stands inside the pattern that ends with '{end.name}'; keep the pair behind that alone"


def _patterns(view: GraphView, kinds: Collection[str]) -> list[list[Node]]:
    """Nodes of each pattern of these kinds, the one that gives its result last."""
    found = [nodes for node in view.nodes for kind, nodes in float_chains(view, node) if kind in kinds]
    for node in view.nodes if "SiLU" in kinds else ():
        root = self_gated(view, node)
        if root is not None:
            makers = [view.producer(unquantized(view, tensor)) for tensor in node.inputs]
            found.append([maker for maker in makers if maker is not None and maker.output != root] + [node])
    return found


def results_have_a_grid(
    view: GraphView, *, fused: Groups, free: Collection[str], kinds: Collection[str] = (), outputs: bool = False
) -> Violations:
    """A layer that reads codes writes codes: a Q stands behind it, or behind what is fused to it.

    `free` are ops that need no grid of their own, `kinds` patterns that need one at their end; `outputs` asks for one
    on what leaves the graph too.
    """
    inside = {node for nodes in _patterns(view, kinds) for node in nodes[:-1]}
    for node in view.nodes:
        read = [tensor for tensor in node.inputs if tensor and not view.is_constant(tensor)]
        if node.op in free or is_q(node) or is_dq(node) or node in inside or not read or limits_codes(view, node):
            continue
        if not all(is_dequantized(view, tensor) for tensor in read):
            continue
        for reader in _float_readers(view, node, fused, free, outputs):
            if reader is None:
                yield node, "its result leaves the graph without a grid; put a Q/DQ behind it"
            elif reader not in inside and not _gates(view, reader, node, kinds):
                yield node, f"no Q between it and {reader.op} '{reader.name}'; quantize its result"
                break


def _float_readers(
    view: GraphView, node: Node, fused: Groups, free: Collection[str], outputs: bool
) -> Iterator[Node | None]:
    """Nodes that read a layer's result in float, past what is fused to it; ``None`` for the graph's caller."""
    if outputs and _leaves(view, node.output, free):
        yield None
    found = list(view.sinks(node.output, free))
    for reader in found:
        follows = reader.op in fused.get(node.op, ()) or _adds_bias(view, reader, node)
        if follows and len(found) == 1:
            yield from _float_readers(view, reader, fused, free, outputs)
        elif not is_q(reader) and not limits_codes(view, reader):
            yield reader


def limits_codes(view: GraphView, node: Node) -> bool:
    """Whether a Clip belongs to the Q behind it: it limits what that rounds to fewer codes than its type has."""
    behind = view.consumers(node.output)
    return node.op == "Clip" and bool(behind) and all(map(is_q, behind)) and not view.escapes(node.output)


def _leaves(view: GraphView, tensor: str, free: Collection[str]) -> bool:
    """Whether a tensor is a graph output, or becomes one by ops in `free` alone."""
    if tensor in view.outputs:
        return True
    return any(_leaves(view, made, free) for node in view.consumers(tensor) if node.op in free for made in node.outputs)


def _adds_bias(view: GraphView, reader: Node, node: Node) -> bool:
    found = biased(view, reader) if reader.op == "Add" else None
    return found is not None and found.operator is node


def _gates(view: GraphView, reader: Node, node: Node, kinds: Collection[str]) -> bool:
    """Whether the reader is the end of a SiLU on this node's result: it multiplies that by the gate."""
    root = self_gated(view, reader) if "SiLU" in kinds else None
    return root is not None and view.producer(root) is node
