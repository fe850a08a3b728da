"""Give one quantizer to tensors that the target wants on one grid."""

from dataclasses import dataclass, replace
from typing import ClassVar

import networkx as nx
from torch import fx

from qatc import ir
from qatc.invariants import BIAS_GRIDS, Invariant
from qatc.modules.ops import Concat
from qatc.pipeline import Pass
from qatc.quantizers import Given, Quantizer
from qatc.targets import Target


@dataclass(frozen=True)
class ShareScales(Pass):
    """The quantizers of a concatenation's inputs and of its result become one, where the target pushes Q through it.

    The one that remains keeps a range per call site and covers them all.
    """

    target: Target

    name: ClassVar[str] = "share-scales"
    requires: ClassVar[tuple[Invariant, ...]] = (BIAS_GRIDS,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        if self.target.concat != "shared":
            return False
        merged = [merge(gm, group) for group in groups(gm)]
        if any(merged):
            ir.prune(gm)
        return any(merged)

    @property
    def options(self) -> str:
        """The fields as text."""
        return f"target={self.target.name}"


def groups(gm: fx.GraphModule) -> list[list[fx.Node]]:
    """Return the quantizer calls that belong together, each group in graph order."""
    together: nx.Graph[fx.Node] = nx.Graph()
    for node in gm.graph.nodes:
        if ir.module_of(node, Concat) is not None:
            sites = [site for tensor in (node, *ir.tensor_inputs(node)) for site in grids_of(tensor)]
            nx.add_path(together, sites)
    order = {node: i for i, node in enumerate(gm.graph.nodes)}
    found = [sorted(group, key=order.__getitem__) for group in nx.connected_components(together)]
    return sorted((group for group in found if len(group) > 1), key=lambda group: order[group[0]])


def grids_of(tensor: fx.Node) -> list[fx.Node]:
    """Return the quantizer calls on a tensor, seen through ops that only move values: its own, and its readers'."""
    source = ir.grid_source(tensor)
    if source is not None:
        return [source]
    found: list[fx.Node] = []
    for user in tensor.users:
        if ir.module_of(user, Quantizer) is not None:
            found.append(user)
        elif ir.moves_values(user) and ir.module_of(user, Concat) is None:
            found += grids_of(user)
    return found


def merge(gm: fx.GraphModule, group: list[fx.Node]) -> bool:
    """Let every call of the group use the first one's quantizer; return whether they did not yet."""
    paths = list(dict.fromkeys(str(node.target) for node in group))
    if len(paths) == 1:
        return False
    members = [gm.get_submodule(path) for path in paths]
    specs = [member.spec for member in members if isinstance(member, Quantizer)]
    first = next((member for member in members if not isinstance(member, Given)), members[0])
    assert isinstance(first, Quantizer)
    widest = max(specs, key=lambda spec: spec.bits)
    signed = {spec.signed for spec in specs}
    # Where the target's codes are unsigned, signed ones are those of a tensor that needs its zero point at 0.
    symmetric = len(signed) > 1 or all(spec.symmetric for spec in specs)
    spec = replace(widest, signed=any(signed), symmetric=symmetric, upper=None)
    calls = [n for n in gm.graph.nodes if n.op == "call_module" and n.target in paths]
    ir.set_module(gm, paths[0], first.with_spec(spec, sites=len(calls)).train(first.training))
    for site, node in enumerate(calls):
        node.target = paths[0]
        node.args = (node.args[0], site)
    for node in gm.graph.nodes:
        if node.op == "get_attr" and node.target in paths:
            node.target = paths[0]
    return True
