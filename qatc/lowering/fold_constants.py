"""The lowering pass that computes what depends on no input."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, fx

from qatc import ir
from qatc.constants import constants, values_of
from qatc.pipeline import Pass


@dataclass(frozen=True)
class FoldConstants(Pass):
    """What is computed from parameters alone becomes a constant: the file holds the weight, not its computation."""

    name: ClassVar[str] = "fold-constants"

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        known = constants(gm.graph)
        read = [node for node in known if node.op != "get_attr" and not known.issuperset(node.users)]
        folded = {node: value for node, value in values_of(gm, read).items() if isinstance(value, Tensor)}
        for node, value in folded.items():
            path = ir.free_path(gm, node.name)
            gm.register_buffer(path, value.clone())
            node.op, node.target, node.args, node.kwargs = "get_attr", path, (), {}
        unused = [node for node in reversed(gm.graph.nodes) if node in known]
        erased = [gm.graph.erase_node(node) for node in unused if not node.users]
        if erased:
            ir.prune(gm)
        return bool(folded or erased)
