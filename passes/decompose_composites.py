"""Take apart what is several ops in one, so that each has its own quantizers."""

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from qatc.invariants import NO_INPLACE, ONE_CALL_SITE, Invariant
from qatc.overwriting import stop_overwriting
from qatc.passes.functional_to_module import TAKE_APART
from qatc.pipeline import Pass
from qatc.rewrite import apply


@dataclass(frozen=True)
class DecomposeComposites(Pass):
    """Attention, einsum and their like become products, sums and layers; nothing overwrites its input any more.

    An op that overwrites comes first: what it is taken apart into does not. What read a tensor after it was overwritten
    reads the result, through views too; where it cannot be known whether something is a view, it is an error.
    """

    name: ClassVar[str] = "decompose-composites"
    requires: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE,)
    ensures: ClassVar[tuple[Invariant, ...]] = (NO_INPLACE,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        changed = stop_overwriting(gm)
        return bool(apply(gm, TAKE_APART)) or changed
