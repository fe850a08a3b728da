"""Let clips clip again: what training left to the quantizers behind them."""

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from qatc import ir
from qatc.modules.clips import Clip
from qatc.pipeline import Pass


@dataclass(frozen=True)
class TakeClipsBack(Pass):
    """Layers and clips forget the quantizer behind them; clips become torch's own again."""

    name: ClassVar[str] = "take-clips-back"

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        changed = False
        for node, module in list(ir.module_calls(gm)):
            if "then" in node.kwargs:
                node.kwargs = {name: value for name, value in node.kwargs.items() if name != "then"}
                changed = True
            if isinstance(module, Clip):
                ir.set_module(gm, str(node.target), module.plain())
                changed = True
        if changed:
            ir.prune(gm)
        return changed
