"""Make every scale a power of two."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx

from qatc import ir
from qatc.invariants import BIAS_GRIDS, POW2_SCALES, Invariant
from qatc.modules.fused import Fused
from qatc.pipeline import Pass
from qatc.quantizers import Quantizer
from qatc.spec import Pow2


@dataclass(frozen=True)
class ConstrainPow2Scales(Pass):
    """Scales are rounded to a power of two: up, so that the range stays covered, or as asked.

    Runtimes that shift instead of multiplying need it, and every sum of products is then exact: the integers of the
    lowered file equal the simulation's from end to end. Zero points become even, since kernels that add them before
    rounding break ties the other way for odd ones.
    """

    rounding: Pow2 = "up"

    name: ClassVar[str] = "constrain-pow2-scales"
    requires: ClassVar[tuple[Invariant, ...]] = (BIAS_GRIDS,)
    ensures: ClassVar[tuple[Invariant, ...]] = (POW2_SCALES,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        changed = False
        for _, module in ir.module_calls(gm):
            for quantizer in (module, module.weight_quantizer if isinstance(module, Fused) else None):
                if isinstance(quantizer, Quantizer) and quantizer.spec.pow2 is None:
                    quantizer.spec = replace(quantizer.spec, pow2=self.rounding)
                    changed = True
        return changed
