"""Let clips be done by the quantizers behind them while training."""

from dataclasses import dataclass
from typing import ClassVar

from torch import fx, nn

from qatc import ir
from qatc.invariants import BIAS_GRIDS, Invariant
from qatc.modules import ops
from qatc.modules.clips import CLIPS, Clip
from qatc.modules.fused import Fused
from qatc.pipeline import Pass
from qatc.quantizers import Quantizer

# What they give is a tensor of its own, never their input or a view of it.
_MAKERS = (
    ops.Add,
    ops.Sub,
    ops.Mul,
    ops.MatMul,
    ops.Concat,
    ops.LayerNorm,
    nn.LayerNorm,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
)


@dataclass(frozen=True)
class LeaveClips(Pass):
    """A layer or clip that only a quantizer reads is told of it (`then`).

    While training, a clip at which the grid ends anyway is then left to the quantizer, and the quantizer writes over
    what it reads, here and behind sums, products and the like: a pass over memory less each way, and a tensor less kept
    for the backward pass. It changes no value.
    """

    name: ClassVar[str] = "leave-clips"
    requires: ClassVar[tuple[Invariant, ...]] = (BIAS_GRIDS,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        alone: dict[str, list[bool]] = {}
        changed = False
        for node, quantizer in list(ir.module_calls(gm)):
            if isinstance(quantizer, Quantizer):
                told = self._told(gm, node)
                spare = told is not None or (_read_once(node) and ir.module_of(node.args[0], _MAKERS) is not None)
                alone.setdefault(str(node.target), []).append(spare)
                changed |= bool(told)
        for path, spare_everywhere in alone.items():
            quantizer = gm.get_submodule(path)
            assert isinstance(quantizer, Quantizer)
            quantizer.overwrites = all(spare_everywhere)
        if changed:
            gm.recompile()
        return changed

    @staticmethod
    def _told(gm: fx.GraphModule, call: fx.Node) -> bool | None:
        """Tell the maker of what a quantizer reads; say whether it is news, or None if there is no one to tell."""
        maker = call.args[0]
        if not isinstance(maker, fx.Node) or not _read_once(call):
            return None
        module = ir.module_of(maker)
        if not isinstance(module, Fused | Clip):
            form = None if module is None else CLIPS.get(type(module))
            if module is None or form is None:
                return None
            ir.set_module(gm, str(maker.target), form.of(module))
        if "then" in maker.kwargs:
            return False
        maker.kwargs = {**maker.kwargs, "then": ir.module_reference(gm, str(call.target), maker)}
        return True


def _read_once(call: fx.Node) -> bool:
    """Say whether nothing but this call of a quantizer reads what it reads."""
    maker = call.args[0]
    return isinstance(maker, fx.Node) and set(maker.users) == {call}
