"""The layers with weights of a prepared model, each with its call and what the graph gives it."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qatc import ir
from qatc.modules.batch_norms import BatchNorm
from qatc.modules.fused import Folded, Fused, FusedBatchNorm, FusedConv
from qatc.modules.transposed import FusedConvTranspose
from qatc.quantizers import Quantizer


@dataclass(frozen=True)
class Layer:
    """A fused Conv or Linear: its call, its module, the BatchNorm folded into it and the grid of its input."""

    node: fx.Node
    module: Fused
    bn: BatchNorm | None
    grid: Quantizer | None

    @property
    def name(self) -> str:
        """The module's path in the model."""
        return str(self.node.target)

    @property
    def location(self) -> str:
        """`file.py:12`, where the user called it; empty where unknown."""
        return ir.source_of(self.node).location

    @property
    def is_given_weights(self) -> bool:
        """Whether the graph gives it its weight, so that it has none of its own."""
        return bool(ir.given_tensors(self.node))

    @property
    def squashes(self) -> bool:
        """Whether its weights go through tanh, so that no factor on them is one on what the layer computes."""
        quantizer = self.module.weight_quantizer
        return quantizer is not None and not quantizer.homogeneous

    def folded(self) -> Folded:
        """Return weight and bias with the running statistics folded in; only of a layer with weights of its own."""
        return self.module.fold(self.bn)

    def to_quantize(self) -> Tensor:
        """Return the weight that its quantizer starts from: folded, but for a scale per channel."""
        quantizer = self.module.weight_quantizer
        per_channel = quantizer is not None and quantizer.spec.axis is not None
        weight: Tensor = self.module.fold(None if per_channel else self.bn).weight
        return weight

    def bn_path(self) -> str:
        """Return the path of the BatchNorm; an empty text where there is none."""
        bn = self.node.kwargs.get("bn")
        return str(bn.target) if isinstance(bn, fx.Node) else ""


def layers_of(gm: fx.GraphModule) -> list[Layer]:
    """Return the fused layers that have weights of their own, in graph order; BatchNorms alone are left out."""
    found = []
    for node, module in ir.module_calls(gm):
        if isinstance(module, Fused) and not isinstance(module, FusedBatchNorm) and module.weight is not None:
            bn, grid = (ir.referenced_module(node.kwargs.get(name)) for name in ("bn", "grid"))
            assert bn is None or isinstance(bn, BatchNorm)
            assert grid is None or isinstance(grid, Quantizer)
            found.append(Layer(node, module, bn, grid))
    return found


def shared_tensors(gm: fx.GraphModule) -> set[int]:
    """Return the ids of the parameters and buffers that more than one module, or call of a module, computes with."""
    uses: Counter[int] = Counter()
    for node in gm.graph.nodes:
        if node.op == "call_module" or ir.referenced_module(node) is not None:
            module = gm.get_submodule(str(node.target))
            uses.update({id(t) for t in (*module.parameters(), *module.buffers())})
        elif node.op == "get_attr":
            uses.update({id(_attribute(gm, str(node.target)))})
    return {tensor for tensor, count in uses.items() if count > 1}


def _attribute(gm: nn.Module, path: str) -> object:
    owner, _, name = path.rpartition(".")
    return getattr(gm.get_submodule(owner), name, None)


def is_depthwise(module: Fused) -> bool:
    """Say whether every output channel reads the input channel of its own number, and no other."""
    if not isinstance(module, FusedConv | FusedConvTranspose):
        return False
    layer: nn.modules.conv._ConvNd = module  # type: ignore[assignment]
    return 1 < layer.groups == layer.in_channels == layer.out_channels


def over_inputs(module: Fused, factor: Tensor) -> Tensor:
    """Return a factor per input channel, [in], shaped to broadcast over the weight."""
    weight: Tensor = module.weight
    if isinstance(module, FusedConvTranspose):
        return factor.view(-1, *[1] * (weight.dim() - 1))
    groups = getattr(module, "groups", 1)
    rows = factor.view(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1)
    return rows.reshape(weight.shape[0], weight.shape[1], *[1] * (weight.dim() - 2))


def input_ranges(module: Fused, weight: Tensor) -> Tensor:
    """Return the greatest magnitude among the weights that read each input channel, [in]."""
    if isinstance(module, FusedConvTranspose):
        return weight.abs().flatten(1).amax(1)
    groups = getattr(module, "groups", 1)
    columns = weight.abs().reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return columns.amax((1, 3)).flatten()


def output_ranges(module: Fused, weight: Tensor) -> Tensor:
    """Return the greatest magnitude among the weights that make each output channel, [out]."""
    if isinstance(module, FusedConvTranspose):
        per_group = weight.abs().reshape(module.groups, -1, weight.shape[1], *weight.shape[2:])
        return per_group.transpose(1, 2).flatten(2).amax(2).flatten()
    return weight.abs().flatten(1).amax(1)


def channel_precision(ranges: Tensor) -> Tensor:
    """Return each channel's range as a share of the widest (Nagel et al., arXiv:1906.04721, section 4.1)."""
    return ranges / ranges.max().clamp(min=torch.finfo(ranges.dtype).tiny)
