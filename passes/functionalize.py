"""Let every op give a new tensor, where the model overwrites one."""

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from qatc.invariants import NO_INPLACE, ONE_CALL_SITE, Invariant
from qatc.overwriting import stop_overwriting
from qatc.pipeline import Pass


@dataclass(frozen=True)
class Functionalize(Pass):
    """relu_, x += y and x[:, 0] = y give new tensors; what read the overwritten one later reads the result.

    That holds through views too: `x[:, 0].add_(1)` changes x. Where it cannot be known whether something is a view, it
    is an error. A buffer that the model overwrites is its state, and stays overwritten.
    """

    name: ClassVar[str] = "functionalize"
    requires: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE,)
    ensures: ClassVar[tuple[Invariant, ...]] = (NO_INPLACE,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        return stop_overwriting(gm)
