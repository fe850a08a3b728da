"""Make the parameters of a layer those with its BatchNorm folded in."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

from qatc import ir
from qatc.invariants import NO_UNFUSED_BATCH_NORM, Invariant
from qatc.layers import Layer, layers_of, shared_tensors
from qatc.modules.fused import Fused
from qatc.pipeline import Pass


@dataclass(frozen=True)
class FoldBatchNorms(Pass):
    """Weight and bias of each layer become the folded ones, and its BatchNorm is gone, as AIMET and NNabla train.

    Evaluated, the function stays; in training there are no batch statistics any more, and a float checkpoint no longer
    fits. Where weights are shared, or given by the graph, and where a BatchNorm has no layer in front, it stays with
    its running statistics for good.
    """

    name: ClassVar[str] = "fold-batch-norms"
    requires: ClassVar[tuple[Invariant, ...]] = (NO_UNFUSED_BATCH_NORM,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Fold; return whether anything changed."""
        shared = shared_tensors(gm)
        folded = [layer for layer in layers_of(gm) if layer.bn is not None and _is_its_own(layer, shared)]
        for layer in folded:
            _fold(layer)
        frozen = [module for _, module in ir.module_calls(gm) if isinstance(module, Fused) and not module.bn_frozen]
        for module in frozen:
            module.bn_frozen = True
        if folded:
            ir.prune(gm)
        return bool(folded or frozen)


def _is_its_own(layer: Layer, shared: set[int]) -> bool:
    module = layer.module
    return not any(t is not None and id(t) in shared for t in (module.weight, module.bias))


def _fold(layer: Layer) -> None:
    module = layer.module
    with torch.no_grad():
        folded = layer.folded()
        assert folded.bias is not None
        module.weight.copy_(folded.weight)
        bias = folded.bias.to(module.weight.dtype)
        if module.bias is None:
            module.bias = nn.Parameter(bias, requires_grad=module.weight.requires_grad)
        else:
            module.bias.copy_(bias)
    layer.node.kwargs = {name: value for name, value in layer.node.kwargs.items() if name != "bn"}
