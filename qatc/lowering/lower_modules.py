"""The passes from a trained graph to one whose modules each have one form in the file."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx, nn

from qatc import ir
from qatc.constants import value_of
from qatc.errors import LoweringError, QatcError
from qatc.lowering.constant_sizes import ConstantSizes
from qatc.lowering.flatten_inputs import FlattenInputs
from qatc.lowering.flatten_outputs import FlattenOutputs
from qatc.lowering.fold_constants import FoldConstants
from qatc.lowering.lowered_modules import (
    FloatLayer,
    FloatMultiplyAdd,
    GlobalAveragePool,
    Guarded,
    LoweredBatchNorm,
    LoweredLayer,
    LoweredQuantizer,
    LoweredSubPixel,
    PaddedCodes,
    ReadsApart,
    SumPool,
)
from qatc.lowering.options import DEFAULT, LoweringOptions
from qatc.lowering.record_types import RecordTypes
from qatc.lowering.sub_pixel import SubPixel, sub_pixel
from qatc.lowering.take_clips_back import TakeClipsBack
from qatc.lowering.weights import weights_of
from qatc.modules import ops
from qatc.modules.batch_norms import AnyBatchNorm, BatchNorm, GivenBatchNorm, same_tensors
from qatc.modules.fused import Folded, Fused, FusedBatchNorm
from qatc.modules.fused_forms import LAYERS, fused_form
from qatc.modules.kinds import op_kind, output_range, to_one
from qatc.modules.transposed import FusedConvTranspose
from qatc.pipeline import Pass, Pipeline
from qatc.quantizers import Quantizer, representable
from qatc.targets import Target

INACTIVE = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    ops.StochasticDepth,
)


@dataclass(frozen=True)
class DropInactive(Pass):
    """Remove what does nothing in eval mode (dropout, identity), or to the sizes at hand (a border of no width).

    A quantizer behind it that has the grid of the one in front is then left out, too: linters refuse a pair repeated.
    What does nothing to the sizes stays between two grids, since runtimes merge pairs that follow one another.
    """

    name: ClassVar[str] = "drop-inactive"

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        changed = False
        for node, module in list(ir.module_calls(gm)):
            keeps = _keeps(node, module) and not _is_between_grids(node)
            if keeps or isinstance(module, INACTIVE) or _repeats(node):
                ir.replace(node, node.args[0])  # type: ignore[arg-type]
                changed = True
        if changed:
            ir.prune(gm)
        return changed


def _is_between_grids(node: fx.Node) -> bool:
    """Say whether the node reads a quantizer's tensor, and a quantizer of another grid reads its own."""
    before = ir.module_of(node.args[0], Quantizer)
    readers = [ir.module_of(user, Quantizer) for user in node.users]
    return before is not None and any(reader is not None and reader is not before for reader in readers)


def _repeats(node: fx.Node) -> bool:
    """Say whether the node is a quantizer that reads what itself, called before, has put on its grid."""
    before = node.args[0] if node.args else None
    if ir.module_of(node, Quantizer) is None or not isinstance(before, fx.Node):
        return False
    return ir.module_of(before, Quantizer) is not None and before.target == node.target


def _keeps(node: fx.Node, module: nn.Module) -> bool:
    """Say whether a module that gives images another size leaves those that it gets as they are."""
    kind = ir.tensor_type(node)
    if kind is None or kind != ir.tensor_type(ir.tensor_inputs(node)[0]):
        return False
    match module:
        case ops.Pad():
            return not any(node.kwargs.get("pad", module.pad))  # type: ignore[arg-type]
        case _ if None in kind.shape[1:]:
            return False  # open sizes may be others in front
        case ops.Interpolate() | nn.Upsample():
            return module.scale_factor is None or node.kwargs.get("size") is not None
    return isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d)


@dataclass(frozen=True)
class DropCoveredClips(Pass):
    """Remove a clip whose every reader is a quantizer that can limit its codes instead.

    One that does not fill its 8 or 16 bits, with a grid inside the clip, limits them anyway; left in, the clip would
    keep the layer from fusing, since runtimes compare it with the range of all bits. Where the grid of 8 bits reaches
    beyond the clip (below a least value that is not zero, or by a power of two), the codes are limited to those of the
    clip's ends: rounding is monotonic, so that is the same.
    """

    target: Target

    name: ClassVar[str] = "drop-covered-clips"

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        changed = False
        for node, module in list(ir.module_calls(gm)):
            clip = module.activation if isinstance(module, Fused) else module
            if clip is None or output_range(clip) is None:
                continue
            if not self._covered(node, clip) and not self._limits_codes(node, clip):
                continue
            if isinstance(module, Fused):
                module.activation = None
            else:
                ir.replace(node, node.args[0])  # type: ignore[arg-type]
            changed = True
        if changed:
            ir.prune(gm)
        return changed

    def _limits_codes(self, node: fx.Node, clip: nn.Module) -> bool:
        """Let the readers limit their codes, if they and the target can; say whether they do."""
        if not isinstance(clip, nn.Hardtanh) or self.target.file.low_bits != "clip_codes" or not node.users:
            return False
        for user in node.users:
            quantizer = ir.module_of(user, Quantizer)
            if quantizer is None or quantizer.spec.bits > 8:
                return False
            low, high = representable(quantizer)
            if low >= clip.min_val and high <= clip.max_val:
                return False  # the runtime sees that the clip does nothing
        for user in node.users:
            ir.set_clipped_codes(user, (clip.min_val, clip.max_val))
        return True

    @property
    def options(self) -> str:
        """The fields as text."""
        return f"target={self.target.name}"

    @staticmethod
    def _covered(node: fx.Node, clip: nn.Module) -> bool:
        if not isinstance(clip, nn.ReLU | nn.ReLU6 | nn.Hardtanh):
            return False
        low, high = output_range(clip) or (0.0, 0.0)
        readers = [ir.module_of(user, Quantizer) for user in node.users]
        grids = [representable(q) if q is not None and q.spec.bits < q.spec.storage_bits else None for q in readers]
        return bool(grids) and all(g is not None and g[0] >= low and g[1] <= high for g in grids)


@dataclass(frozen=True)
class LowerModules(Pass):
    """Replace every module by its form in the file: codes and scales as constants, shapes as constants."""

    target: Target

    name: ClassVar[str] = "lower-modules"

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        # All are computed before any is replaced: a bias needs the quantizer of its input.
        calls = [(node, module, self._explained(node, module)) for node, module in ir.module_calls(gm)]
        targets = {str(node.target) for node, _, _ in calls}
        pads = {node: self._pad_on_codes(node) for node, _, _ in calls}
        for node, module, lowered in calls:
            if lowered is not None:
                path = ir.source_of(node).path if isinstance(module, Quantizer) else str(node.target)
                for name, child in module.named_children():
                    if any(f"{called}.".startswith(f"{path}.{name}.") for called in targets):
                        lowered.add_module(name, child)  # as the activation of a BatchNorm that brings one
                ir.set_module(gm, path, lowered)
                first = pads[node] or node
                sizes = {name: value for name, value in first.kwargs.items() if name not in _OF_LAYERS}
                node.target, node.args, node.kwargs = path, first.args[:1], sizes
                if first is not node:
                    ir.replace(first, node)
            if isinstance(lowered, LoweredSubPixel):
                _set_phases(node, lowered)
        ir.prune(gm)
        return True

    def _explained(self, node: fx.Node, module: nn.Module) -> nn.Module | None:
        try:
            return self._lowered(node, module)
        except QatcError as error:
            place = " ".join(filter(None, (str(node.target), ir.source_of(node).location)))
            raise type(error)(error.what, where=error.where or place, remedy=error.remedy) from error

    @property
    def options(self) -> str:
        """The fields as text."""
        return f"target={self.target.name}"

    def _lowered(self, node: fx.Node, module: nn.Module) -> nn.Module | None:
        """Return the module's form in the file; None if it stays."""
        match module:
            case Quantizer():
                phases, pad = self._sub_pixel(node.args[0]), ir.module_of(self._pad_on_codes(node))
                arrange = phases if pad is None else PaddedCodes.of(pad, module)
                return LoweredQuantizer(module, self.target, ir.clipped_codes(node), arrange)
            case FusedBatchNorm():
                return self._batch_norm(node, module)
            case Fused():
                return self._layer(node, module)
            case GivenBatchNorm():
                return self._given_batch_norm(node, module)
            case _ if isinstance(module, LAYERS):
                form = fused_form(module)
                return self._unless_itself(node, module) if form is None else self._layer(node, form)
            case ops.Mean() | nn.AdaptiveAvgPool1d() | nn.AdaptiveAvgPool2d() | nn.AdaptiveAvgPool3d():
                return self._mean(node, module)
            case nn.AdaptiveMaxPool1d() | nn.AdaptiveMaxPool2d() | nn.AdaptiveMaxPool3d() if to_one(module.output_size):
                return ops.Amax(tuple(range(-_RANKS[type(module)], 0)), keepdim=True)
            case nn.AvgPool2d() | nn.AvgPool3d() if module.divisor_override:
                return SumPool(module)
            case nn.RReLU():
                return nn.LeakyReLU((module.lower + module.upper) / 2)
            case nn.Softmax() | ops.Softmax():
                return self._unless_itself(node, module)
            case _:
                if self._would_quantize_an_output(node):
                    return ReadsApart(module)
                return Guarded(module) if self._kept_apart(node, module) else None

    def _would_quantize_an_output(self, node: fx.Node) -> bool:
        """Say whether the runtime would take the grid behind the node in front of it, where the network's output is."""
        source = node.args[0] if node.args else None
        if not self.target.file.pulls_grids or not isinstance(source, fx.Node) or not ir.moves_values(node):
            return False
        is_output = any(user.op == "output" for user in source.users)
        return is_output and ir.grid_source(source) is None and _is_quantized(node)

    def _kept_apart(self, node: fx.Node, module: nn.Module) -> bool:
        """Say whether the runtime would merge the op with one behind it, and that would change its values."""
        wrong = self.target.file.kept_apart.get(op_kind(module), frozenset())
        behind = [ir.module_of(user) for user in node.users]
        return any(reader is not None and op_kind(reader) in wrong for reader in behind)

    def _unless_itself(self, node: fx.Node, module: nn.Module) -> nn.Module | None:
        guarded = self._guarded(node, module, op_kind(module))
        return None if guarded is module else guarded

    def _guarded(self, node: fx.Node, module: nn.Module, kind: str) -> nn.Module:
        """Return the module, guarded where the target's runtime would run it in integers by itself."""
        between_grids = ir.grid_source(node.args[0]) and _is_quantized(node)
        if not between_grids or kind not in self.target.file.guarded:
            return module
        if not isinstance(module, FloatLayer):
            return Guarded(module)
        module.guarded = True
        return module

    def _layer(self, node: fx.Node, module: Fused) -> nn.Module:
        folded = folded_of(node, module)
        if module.weight_quantizer is None:
            return self._guarded(node, FloatLayer(module, folded), op_kind(module))
        weights, form = weights_of(module, folded, grid_of(node)), self._sub_pixel(node)
        if isinstance(module, FusedConvTranspose) and form is not None:
            return LoweredSubPixel(module, weights, self.target, form)
        return LoweredLayer(module, weights, self.target)

    def _pad_on_codes(self, node: fx.Node) -> fx.Node | None:
        """Return the pad with zeros in front of a quantizer with the grid that it reads: codes can be padded."""
        quantizer = ir.module_of(node, Quantizer) if self.target.file.padding == "codes" else None
        pad = None if quantizer is None or quantizer.spec.bits > 8 else node.args[0]
        module = ir.module_of(pad)
        if not isinstance(pad, fx.Node) or module is None or op_kind(module) != "Pad":
            return None
        source = ir.grid_source(pad)
        return pad if source is not None and source.target == node.target and len(pad.users) == 1 else None

    def _sub_pixel(self, node: Any) -> SubPixel | None:
        """Return the form of a quantized transposed convolution where the target has it as a convolution."""
        module = ir.module_of(node, FusedConvTranspose)
        if module is None or module.weight_quantizer is None or self.target.file.transposed != "Conv":
            return None
        readers = [ir.module_of(user, Quantizer) for user in node.users]
        if not all(reader is not None and reader.spec.bits <= 8 for reader in readers):
            return None  # quantizers put the phases side by side, of 8 bits
        given = node.kwargs.get("output_size") is not None
        return sub_pixel(module, *(ir.tensor_type(n) for n in (node.args[0], node)), sizes_given=given)

    def _batch_norm(self, node: fx.Node, module: FusedBatchNorm) -> nn.Module:
        kind = ir.tensor_type(node)
        if kind is None:
            raise LoweringError("the shape of a BatchNorm's input is unknown", remedy="give example_inputs to prepare")
        rank = len(kind.shape)
        if module.weight_quantizer is None or rank not in (2, 3, 4, 5):
            return FloatMultiplyAdd(module, rank)
        return LoweredBatchNorm(module, weights_of(module, module.fold(None), grid_of(node)), self.target, rank)

    def _given_batch_norm(self, node: fx.Node, module: GivenBatchNorm) -> nn.Module:
        root = node.graph.owning_module
        assert root is not None
        owner = nn.Module().eval()
        for name, tensor in ir.given_tensors(node).items():
            owner.register_buffer(name, value_of(root, tensor))
        return self._batch_norm(node, FusedBatchNorm.from_float(same_tensors(AnyBatchNorm, owner, module.eps, None)))

    def _mean(self, node: fx.Node, module: nn.Module) -> nn.Module | None:
        kind = ir.tensor_type(ir.tensor_inputs(node)[0])
        if kind is None or self.target.file.mean != "GlobalAveragePool":
            return None
        positions = tuple(range(2, len(kind.shape)))
        if isinstance(module, ops.Mean):
            dims = (module.dim,) if isinstance(module.dim, int) else module.dim or ()
            over_positions = positions and sorted(d % len(kind.shape) for d in dims) == list(positions)
            return GlobalAveragePool(module.keepdim) if over_positions else None
        return GlobalAveragePool(keepdim=True) if to_one(module.output_size) else None


def _is_quantized(node: fx.Node) -> bool:
    """Say whether a quantizer reads the node's tensor, seen through ops that move values, and calls that may vanish."""

    def passes_on(user: fx.Node) -> bool:
        return ir.moves_values(user) or user.op in ("call_function", "call_method")

    return any(ir.module_of(user, Quantizer) or (passes_on(user) and _is_quantized(user)) for user in node.users)


def _set_phases(node: fx.Node, lowered: LoweredSubPixel) -> None:
    """Record that the node gives phases, whose positions the quantizers behind it join."""
    source, kind = (ir.tensor_type(n) for n in (ir.tensor_inputs(node)[0], node))
    assert source is not None
    assert kind is not None
    places = lowered.form.places(source.shape[-len(lowered.form.axes) :])
    sizes = (lowered.channels, *places)
    ir.set_tensor_type(node, ir.TensorType(kind.dtype, (kind.shape[0], *sizes)))
    dims = ir.dims_of(node)
    if dims is not None:
        ir.set_dims(node, (dims[0], *(ir.OpenSize(0) if size is None else size for size in sizes)))


# Arguments of a layer that its form in the file holds itself.
_OF_LAYERS = (*ir.GIVEN, "bn", "grid")
_RANKS = {nn.AdaptiveMaxPool1d: 1, nn.AdaptiveMaxPool2d: 2, nn.AdaptiveMaxPool3d: 3}


def folded_of(node: fx.Node, module: Fused) -> Folded:
    """Return the weight and bias of a layer's call with its BatchNorm folded in."""
    bn, root = ir.referenced_module(node.kwargs.get("bn")), node.graph.owning_module
    assert bn is None or isinstance(bn, BatchNorm)
    assert root is not None
    return module.fold(bn, **{name: value_of(root, tensor) for name, tensor in ir.given_tensors(node).items()})


def grid_of(node: fx.Node) -> Quantizer | None:
    """Return the quantizer of a layer's input, where that is on a grid."""
    found = ir.referenced_module(node.kwargs.get("grid"))
    return found if isinstance(found, Quantizer) else None


def flat_signature(options: LoweringOptions = DEFAULT) -> tuple[Pass, ...]:
    """Return the passes that give a graph one input and one output per tensor, as the file has them."""
    return FlattenInputs(), RecordTypes(options.batch, options.dynamic), FlattenOutputs()


def lowering_pipeline(target: Target, options: LoweringOptions = DEFAULT) -> Pipeline:
    """Return the passes from a trained graph to one that can be written."""
    rewrites = (
        ConstantSizes(), FoldConstants(), DropInactive(), TakeClipsBack(), DropCoveredClips(target),
        LowerModules(target),
    )  # fmt: skip
    return Pipeline((*flat_signature(options), *rewrites))
