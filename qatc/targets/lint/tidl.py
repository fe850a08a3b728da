"""The rules that a QDQ file for TI's TIDL keeps, one line a rule, for MMAv2 and for TDA4VM (MMAv1).

Source: edgeai-tidl-tools docs/quantization.md, "TIDL Layer Quantization Restrictions" and its notes; nothing here
can run TIDL.
"""

from functools import partial

from qatc.targets.lint import grids, layers, placement
from qatc.targets.lint.graph import GraphView, Node
from qatc.targets.lint.onnxruntime import ON_CODES
from qatc.targets.lint.qdq import DEQUANTIZE, QUANTIZE, is_q, operands, zero_point_of
from qatc.targets.lint.rule import LintRule, Violations

# "Pass through layer, can pass zero point from input to output".
_PASS_THROUGH = frozenset({"Flatten", "Identity", "Reshape", "Transpose"})
# Layers whose activations may have a zero point; of the eltwise ones Add alone, of InnerProduct with constant weights.
_ASYMMETRIC = frozenset({"Add", "Concat", "Conv", "Gemm", "LayerNormalization", "MatMul", "Softmax"} | _PASS_THROUGH)
# "Requires QDQ Nodes: No", and what is gone before import.
_NEED_NONE = frozenset(
    {"Cast", "Dropout", "Flatten", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
# "Convolution, ConvTranspose, Add/Mul/Sub/Div, BatchNorm layers do not require QDQ layers if followed by a Relu layer
# that has QDQ nodes after it", a Clip likewise; convolutions nor if a BatchNorm follows.
_CLAMPS = frozenset({"Clip", "Relu"})
_FUSED = {
    **dict.fromkeys(("Add", "BatchNormalization", "Div", "Gemm", "MatMul", "Mul", "Sub"), _CLAMPS),
    **dict.fromkeys(("Conv", "ConvTranspose"), _CLAMPS | {"BatchNormalization"}),
}
_PATTERNS = frozenset({"GELU", "LayerNorm", "SiLU"})
_PER_CHANNEL = frozenset({"Conv", "Gemm", "MatMul"})


def activations_are_symmetric(view: GraphView, *, but: frozenset[str] = frozenset()) -> Violations:
    """An activation has zero point 0 unless the layer that writes it and those that read it are of the kinds `but`."""
    for q in filter(is_q, view.nodes):
        zero = zero_point_of(view, q)
        if view.is_constant(q.input(0)) or zero is None or not zero.any():
            continue
        makers = [view.producer(_before_clamps(view, q.input(0)))]
        reached = view.sinks(q.output, QUANTIZE | DEQUANTIZE | (_PASS_THROUGH & but))
        around = [node for node in (*makers, *reached) if node is not None]
        if odd := [node for node in around if not _takes_zero_points(view, node, but)]:
            yield q, f"zero point {zero[0]} at {odd[0].op} '{odd[0].name}', which is symmetric; quantize symmetrically"


def _takes_zero_points(view: GraphView, node: Node, but: frozenset[str]) -> bool:
    if node.op in {"Gemm", "MatMul"} and operands(view, node) is None:
        return False
    return node.op in but


def _before_clamps(view: GraphView, tensor: str) -> str:
    """Return the tensor in front of a Clip that belongs to the Q, and of a ReLU that belongs to the layer before."""
    maker = view.producer(tensor)
    if maker is not None and layers.limits_codes(view, maker):
        tensor = maker.input(0)
        maker = view.producer(tensor)
    before = view.producer(maker.input(0)) if maker is not None and maker.op in _CLAMPS else None
    return maker.input(0) if maker is not None and before is not None and before.op in _FUSED else tensor


def inputs_are_symmetric(view: GraphView) -> Violations:
    """What the network reads is quantized with zero point 0: the input's data convert layer is symmetric."""
    for q in filter(is_q, view.nodes):
        zero = zero_point_of(view, q)
        tensor = _before_clamps(view, q.input(0))
        if tensor in view.inputs and zero is not None and zero.any():
            yield q, f"network input '{tensor}' has zero point {zero[0]}; quantize it symmetrically"


_DOCS = "edgeai-tidl-tools docs/quantization.md, layer quantization restrictions"
_NOTES = "edgeai-tidl-tools docs/quantization.md, notes to the restrictions"
_PRESETS = "edgeai-tensorlab torchmodelopt, presets for TDA4VM"
_QUANTIZER = "edgeai-tensorlab torchmodelopt v3, tidlrt_quantizer_basic.py"

_no_split = partial(layers.groups_have_no_pair, fused=_FUSED)
_no_pair_inside = partial(layers.patterns_have_no_pair, kinds=_PATTERNS)
_grids = partial(layers.results_have_a_grid, fused=_FUSED, free=_NEED_NONE, kinds=_PATTERNS)

_EVERY_GENERATION = (
    LintRule(
        "TIDL01",
        "error",
        "scales are constant, finite, positive floats, one zero point each",
        "ONNX operator QuantizeLinear",
        grids.scales_are_positive_constants,
    ),
    LintRule(
        "TIDL02",
        "error",
        "codes have 8 bits; 16 are an option of compilation",
        _DOCS,
        partial(
            grids.codes_have_types,
            types=grids.EIGHT_BITS,
            otherwise="TIDL reads 8 bits; name layers in output_feature_16bit_names_list instead",
        ),
    ),
    LintRule("TIDL03", "error", "only constants have a vector of scales", _DOCS, grids.activations_have_one_scale),
    LintRule(
        "TIDL04",
        "error",
        "scales of channels fit their axis, which is the output channel's",
        f"ONNX operator QuantizeLinear; {_DOCS}",
        grids.channel_axes_are_right,
    ),
    LintRule("TIDL05", "error", "weights are symmetric", _DOCS, grids.weights_are_symmetric),
    LintRule("TIDL06", "error", "the network's input is symmetric", _NOTES, inputs_are_symmetric),
    LintRule("TIDL07", "error", "a bias lies on the grid scale_x * scale_w", _QUANTIZER, grids.biases_lie_on_the_grid),
    LintRule(
        "TIDL08",
        "warning",
        "a weighted op dequantizes data and weight, or neither",
        _DOCS,
        placement.weighted_ops_are_quantized_whole,
    ),
    LintRule(
        "TIDL09",
        "warning",
        "no Q/DQ between a layer and its ReLU or norm",
        _NOTES,
        partial(layers.groups_have_no_pair, fused=_FUSED),
    ),
    LintRule(
        "TIDL10",
        "warning",
        "no Q/DQ inside a LayerNorm, GELU or SiLU",
        _NOTES,
        partial(layers.patterns_have_no_pair, kinds=_PATTERNS),
    ),
    LintRule(
        "TIDL11",
        "warning",
        "a layer that reads codes has a Q behind",
        _DOCS,
        partial(layers.results_have_a_grid, fused=_FUSED, free=_NEED_NONE, kinds=_PATTERNS),
    ),
    LintRule(
        "TIDL12",
        "error",
        "a Q feeds DQs or ops on codes, a DQ comes from a Q, no pair is repeated",
        "ONNX operator QuantizeLinear",
        partial(placement.pairs_are_complete, on_codes=ON_CODES),
    ),
)

TIDL_RULES = (
    *_EVERY_GENERATION,
    LintRule(
        "TIDL13",
        "error",
        "zero points only around Conv, InnerProduct, Add, Concat, Softmax, LayerNorm and reshapes",
        _DOCS,
        partial(activations_are_symmetric, but=_ASYMMETRIC),
    ),
    LintRule(
        "TIDL14",
        "error",
        "scales of channels on the weights of Conv and InnerProduct alone",
        _DOCS,
        partial(grids.constants_have_one_scale, but=_PER_CHANNEL),
    ),
    LintRule(
        "TIDL15",
        "error",
        "TDA4VM: scales are powers of two",
        _PRESETS,
        grids.scales_are_powers_of_two,
    ),
    LintRule(
        "TIDL16",
        "error",
        "TDA4VM: weights have one scale",
        _PRESETS,
        grids.constants_have_one_scale,
    ),
    LintRule(
        "TIDL17",
        "error",
        "TDA4VM: activations are symmetric",
        "edgeai-tidl-tools docs/quantization.md",
        activations_are_symmetric,
    ),
)

_COMMON = tuple(rule.id for rule in _EVERY_GENERATION)
TIDL_LINT = (*_COMMON, "TIDL13", "TIDL14")
TIDL_TDA4VM_LINT = (*_COMMON, "TIDL15", "TIDL16", "TIDL17")
