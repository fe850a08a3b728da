"""Make a BatchNorm with nothing to fold into a multiply-add of its own."""

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from qatc import ir
from qatc.invariants import NO_INPLACE, NO_UNFUSED_BATCH_NORM, ONE_CALL_SITE, Invariant
from qatc.modules.batch_norms import BatchNorm
from qatc.modules.fused import FusedBatchNorm
from qatc.modules.fused_forms import BATCH_NORMS, fused_form
from qatc.passes.fuse_conv_bn_act import CLIPS, absorb, taken_out
from qatc.pipeline import Pass
from qatc.rewrite import Chain, Op, Rule, apply, optional


@dataclass(frozen=True)
class FoldBnSelf(Pass):
    """A BatchNorm that no layer takes in becomes a multiply-add per channel, itself quantizable [+ activation].

    It trains as the BatchNorm that it was, and keeps its name and parameters. One without running statistics is left,
    and reported.
    """

    name: ClassVar[str] = "fold-bn-self"
    requires: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE, NO_INPLACE)
    ensures: ClassVar[tuple[Invariant, ...]] = (NO_UNFUSED_BATCH_NORM,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        return bool(apply(gm, RULES))


def fold(gm: fx.GraphModule, bn: fx.Node, act: fx.Node | None) -> bool:
    """Replace the BatchNorm by its fused form."""
    module = gm.get_submodule(str(bn.target))
    assert isinstance(module, BatchNorm)
    if module.running_var is None or not module.track_running_stats:
        ir.set_why_float(bn, "it has no running statistics (track_running_stats=False)")
        return False
    shared = any(other is not bn and other.target == bn.target for other in gm.graph.nodes)
    if isinstance(module, FusedBatchNorm) and (act is None or shared or module.activation is not None):
        return False
    fused = fused_form(module)
    if fused is None:
        ir.set_why_float(bn, f"{type(module).__name__} computes in a way of its own")
        return False
    ir.set_module(gm, str(bn.target), fused)
    if act is not None and not shared:
        fused.activation = taken_out(gm, act)
        absorb(bn, [act])
    return True


RULES = (Rule("bn-act", Chain((Op(BATCH_NORMS), optional(*CLIPS))), fold),)
