"""Fuse a layer with weights, the BatchNorm behind it and the activation behind that."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import fx, nn

from qatc import ir
from qatc.invariants import NO_INPLACE, ONE_CALL_SITE, Invariant
from qatc.modules import ops
from qatc.modules.batch_norms import BatchNorm
from qatc.modules.fused import Fused
from qatc.modules.fused_forms import BATCH_NORMS, LAYERS, fused_form
from qatc.pipeline import Pass
from qatc.rewrite import Chain, Op, Rule, apply, optional

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# What every target fuses: activations that only clip.
CLIPS = (nn.ReLU, nn.ReLU6, nn.Hardtanh)


@dataclass(frozen=True)
class FuseConvBnAct(Pass):
    """Conv, transposed or not, or Linear [+ BatchNorm] [+ ReLU, ReLU6 or Hardtanh] becomes one module.

    It trains as they did. Identities are left out. A Linear whose result is flattened to [rows, channels] for its
    BatchNorm reads flattened rows instead.

    The BatchNorm stays where it is in the model, under its own name; the fused layer is given it as an argument.
    It is fused only if nothing else reads the layer, and if it has running statistics to fold.
    """

    name: ClassVar[str] = "fuse-conv-bn-act"
    requires: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE, NO_INPLACE)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        prepared = [drop_identities(gm), name_output_sizes(gm), bool(apply(gm, FLATTEN_FIRST))]
        return bool(apply(gm, RULES)) or any(prepared)


def drop_identities(gm: fx.GraphModule) -> bool:
    """Remove what stands between layers and does nothing: models put it where an option is not used."""
    dropped = False
    for node, module in list(ir.module_calls(gm)):
        if type(module) is nn.Identity and isinstance(node.args[0], fx.Node):
            ir.replace(node, node.args[0])
            dropped = True
    if dropped:
        ir.prune(gm)
    return dropped


def name_output_sizes(gm: fx.GraphModule) -> bool:
    """Pass the output size of a transposed convolution by its name: behind the input, a fused layer takes others."""
    named = False
    for node, module in ir.module_calls(gm):
        if isinstance(module, TRANSPOSED) and len(node.args) > 1:
            first, size = node.args
            node.args, node.kwargs = (first,), {**node.kwargs, "output_size": size}
            named = True
    if named:
        gm.recompile()
    return named


def flatten_first(gm: fx.GraphModule, layer: fx.Node, flatten: fx.Node, bn: fx.Node) -> bool:
    """Flatten what a Linear reads instead of what it gives, where a BatchNorm of its channels stands behind."""
    linear, kind = ir.module_of(layer, nn.Linear), ir.tensor_type(flatten)
    assert linear is not None
    if len(layer.args) != 1 or layer.kwargs or kind is None or kind.shape[1:] != (linear.out_features,):
        return False
    path = ir.free_path(gm, f"{layer.target}_rows")
    ir.set_module(gm, path, ops.Reshape((-1, linear.in_features)))
    with gm.graph.inserting_before(layer):
        rows = gm.graph.call_module(path, layer.args)
    ir.set_source(rows, replace(ir.source_of(flatten), path=path))
    ir.set_tensor_type(rows, ir.TensorType(kind.dtype, (kind.shape[0], linear.in_features)))
    layer.args = (rows,)
    absorb(layer, [flatten])
    return True


def fuse(gm: fx.GraphModule, layer: fx.Node, bn: fx.Node | None, act: fx.Node | None) -> bool:
    """Replace the chain by one module at the layer's place."""
    module = gm.get_submodule(str(layer.target))
    if bn is not None and not foldable(gm.get_submodule(str(bn.target)), module, ir.tensor_type(layer)):
        bn, act = None, None
    taken = isinstance(module, Fused) and (module.activation is not None or "bn" in layer.kwargs)
    fused = None if taken or (bn is None and act is None) else fused_form(module)
    if fused is None:
        return False
    if bn is not None:
        layer.kwargs = {**layer.kwargs, "bn": ir.module_reference(gm, str(bn.target), layer)}
    if act is not None:
        fused.activation = taken_out(gm, act)
    ir.set_module(gm, str(layer.target), fused)
    absorb(layer, [bn, act])
    return True


def taken_out(gm: fx.GraphModule, node: fx.Node) -> nn.Module:
    """Return the module that the node calls, removed from its place in the model."""
    module = gm.get_submodule(str(node.target))
    gm.delete_submodule(str(node.target))
    return module


def absorb(into: fx.Node, chain: list[fx.Node | None]) -> None:
    """Let `into` stand for the nodes of a chain behind it, and erase them."""
    for node in chain:
        if node is not None:
            ir.set_tensor_type(into, ir.tensor_type(node))
            ir.replace(node, into)


def foldable(bn: nn.Module, layer: nn.Module, output: ir.TensorType | None) -> bool:
    """Say whether the BatchNorm has running statistics, of the layer's own output channels."""
    assert isinstance(bn, BatchNorm)
    if isinstance(layer, nn.Linear) and output is not None and len(output.shape) != 2:
        return False  # its channels are the last dimension, the BatchNorm's dimension 1
    channels = getattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels")
    return bn.running_var is not None and bn.track_running_stats and bn.num_features == channels


FLATTEN_FIRST = (
    Rule("flatten-first", Chain((Op((nn.Linear,)), Op((nn.Flatten, ops.Reshape)), Op(BATCH_NORMS))), flatten_first),
)
RULES = (
    Rule(
        "layer-bn-act",
        Chain((Op(LAYERS), optional(*BATCH_NORMS), optional(*CLIPS))),
        fuse,
    ),
)
