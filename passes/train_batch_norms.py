"""Choose how BatchNorms that are folded into layers train."""

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from qatc import ir
from qatc.invariants import NO_UNFUSED_BATCH_NORM, Invariant
from qatc.modules.fused import Fused
from qatc.pipeline import Pass


@dataclass(frozen=True)
class TrainBatchNorms(Pass):
    """Layers with a BatchNorm train in the given mode: `two-convolutions`, `straight-through`, or `frozen`.

    Frozen ones, those with nothing to fold into among them, train with running statistics from the first step, as
    `qatc.freeze_bn` would make them later.
    """

    mode: str

    name: ClassVar[str] = "train-batch-norms"
    requires: ClassVar[tuple[Invariant, ...]] = (NO_UNFUSED_BATCH_NORM,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Set the mode of each layer; return whether any had another."""
        changed = False
        for _, module in ir.module_calls(gm):
            if not isinstance(module, Fused):
                continue
            if self.mode == "frozen":
                changed |= not module.bn_frozen
                module.bn_frozen = True
            else:
                changed |= module.bn_mode != self.mode
                module.bn_mode = self.mode
        return changed

    @property
    def options(self) -> str:
        """The fields as text."""
        return f"mode={self.mode}"
