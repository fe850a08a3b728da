"""Make the parameters of a layer those with its BatchNorm folded in."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from qatc import ir
from qatc.invariants import NO_UNFUSED_BATCH_NORM, Invariant
from qatc.layers import Layer, layers_of, over_inputs, shared_tensors
from qatc.modules.fused import Fused, FusedBatchNorm, FusedConv, FusedLinear
from qatc.modules.fused_forms import LAYERS, fused_form
from qatc.pipeline import Pass


@dataclass(frozen=True)
class FoldBatchNorms(Pass):
    """Weight and bias of each layer become the folded ones, and its BatchNorm is gone, as AIMET and NNabla train.

    A BatchNorm with no layer in front folds into the one behind, W f and b + sum of W s for a BatchNorm f x + s, if
    that alone reads it and pads with no zeros, which stand at the border for what BatchNorm made of the input.

    Evaluated, the function stays; in training there are no batch statistics any more, and a float checkpoint no longer
    fits. A BatchNorm that folds nowhere, or only into weights that are shared or given by the graph, stays, with its
    running statistics for good.
    """

    name: ClassVar[str] = "fold-batch-norms"
    requires: ClassVar[tuple[Invariant, ...]] = (NO_UNFUSED_BATCH_NORM,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Fold; return whether anything changed."""
        shared = shared_tensors(gm)
        behind = [layer for layer in layers_of(gm) if layer.bn is not None and _is_its_own(layer.module, shared)]
        for layer in behind:
            _fold_behind(layer)
        alone = [node for node, module in ir.module_calls(gm) if isinstance(module, FusedBatchNorm)]
        stays = {node: _why_it_stays(node, shared) for node in alone}
        before = [node for node in alone if not stays[node]]
        for node in before:
            _fold_before(gm, node)
        kept = (f"{node.target} stays a multiply-add of its own: {why}" for node, why in stays.items() if why)
        ir.set_notes(gm, dict.fromkeys((*ir.notes(gm), *kept)))
        frozen = [module for _, module in ir.module_calls(gm) if isinstance(module, Fused) and not module.bn_frozen]
        for module in frozen:
            module.bn_frozen = True
        if behind or before:
            ir.prune(gm)
        return bool(behind or before or frozen)


def _is_its_own(module: nn.Module, shared: set[int]) -> bool:
    own = list(module.parameters(recurse=False))
    return bool(own) and not any(id(tensor) in shared for tensor in own)


def _fold_behind(layer: Layer) -> None:
    """Fold the BatchNorm that the layer is given."""
    with torch.no_grad():
        folded = layer.folded()
        assert folded.bias is not None
        layer.module.weight.copy_(folded.weight)
        _set_bias(layer.module, folded.bias)
    layer.node.kwargs = {name: value for name, value in layer.node.kwargs.items() if name != "bn"}


def _why_it_stays(node: fx.Node, shared: set[int]) -> str:
    """Say why a BatchNorm of its own does not fold exactly into a layer behind it; an empty text if it does."""
    bn, reader = ir.module_of(node, FusedBatchNorm), ir.only_user(node)
    module = _reading_layer(reader)
    if bn is None or bn.activation is not None:
        return "an activation is behind it"
    if reader is None or module is None:
        return "its result is not read by one layer alone"
    if "bn" in reader.kwargs or not _is_its_own(module, shared):
        return f"the weights of {reader.target} are not its own alone"
    if not _pads_no_zeros(module, node):
        return f"at the border of {reader.target} zeros stand for what it makes of its input"
    return ""


def _reading_layer(reader: fx.Node | None) -> Fused | None:
    layer = ir.module_of(reader, LAYERS)
    return None if layer is None else fused_form(layer)


def _fold_before(gm: fx.GraphModule, node: fx.Node) -> None:
    """Fold a BatchNorm of its own into the only layer that reads it."""
    bn, reader = ir.module_of(node, FusedBatchNorm), ir.only_user(node)
    module = _reading_layer(reader)
    assert bn is not None
    assert reader is not None
    assert module is not None
    with torch.no_grad():
        factor, shift, _ = bn.fold(None)
        assert shift is not None
        moved = (module.weight * over_inputs(module, shift)).flatten(1).sum(1)  # of the weight before it is scaled
        module.weight.mul_(over_inputs(module, factor).to(module.weight.dtype))
        _set_bias(module, moved if module.bias is None else module.bias + moved)
    ir.set_module(gm, str(reader.target), module)
    ir.note_replaced(node, reader)
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    node.graph.erase_node(node)


def _pads_no_zeros(module: Fused, read: fx.Node) -> bool:
    """Say whether the layer adds the same to each output whatever its place, of what it reads along dimension 1."""
    if isinstance(module, FusedLinear):
        kind = ir.tensor_type(read)
        return kind is not None and len(kind.shape) == 2
    if not isinstance(module, FusedConv):
        return False  # at the border of a transposed convolution fewer inputs meet
    layer: Any = module
    return layer.padding_mode != "zeros" or layer.padding == "valid" or not any(layer.padding)


def _set_bias(module: Fused, bias: Tensor) -> None:
    bias = bias.to(module.weight.dtype)
    if module.bias is None:
        module.bias = nn.Parameter(bias, requires_grad=module.weight.requires_grad)
    else:
        module.bias.copy_(bias)
