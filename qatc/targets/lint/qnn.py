"""The rules that a QDQ file for Qualcomm's QNN (HTP) keeps, one line a rule.

Sources: AIMET's htp_quantsim_config_v75.json (what has a grid, supergroups, channels), ONNX Runtime's configuration
for the QNN execution provider (types, fixed grids); nothing here can run QNN.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
from onnx import TensorProto

from qatc.targets.lint import grids, layers, placement
from qatc.targets.lint.graph import GraphView
from qatc.targets.lint.onnxruntime import ON_CODES
from qatc.targets.lint.qdq import MOVES, code_type, is_q, scale_of, zero_point_of
from qatc.targets.lint.rule import LintRule, Violations

_AIMET = "AIMET htp_quantsim_config_v75.json"
_ORT = "onnxruntime quantization/execution_providers/qnn/quant_config.py"

# Data movement has the grid of what it moves.
_FREE = MOVES | {"Cast", "Dropout", "Identity", "NonMaxSuppression", "Pad"}
_ACTIVATIONS = frozenset({"Clip", "LeakyRelu", "PRelu", "Relu"})
_SUPERGROUPS = {
    "Add": frozenset({"Relu"}),
    "BatchNormalization": _ACTIVATIONS | {"HardSwish"},
    "Conv": _ACTIVATIONS | {"BatchNormalization"},
    "ConvTranspose": frozenset({"BatchNormalization", "Relu"}),
    "Gemm": frozenset({"Relu"}),
}
# A Conv whose BatchNorm was folded is in the supergroup of both and HardSwish, though v75 lists it with the norm alone.
_MAY_FOLLOW = {**_SUPERGROUPS, "Conv": _SUPERGROUPS["Conv"] | {"HardSwish"}, "ConvTranspose": _ACTIVATIONS}
# AIMET finds a LayerNorm that is written out; the converter a GELU.
_PATTERNS = frozenset({"GELU", "LayerNorm"})
_PER_CHANNEL = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu"})
# Scale and zero point of 16-bit results whose range the operator fixes.
_FIXED: Mapping[tuple[str, int], tuple[float, int]] = {
    ("Sigmoid", TensorProto.UINT16): (1 / 65536, 0),
    ("Sigmoid", TensorProto.INT16): (1 / 32768, 0),
    ("Tanh", TensorProto.UINT16): (1 / 32768, 32768),
    ("Tanh", TensorProto.INT16): (1 / 32768, 0),
}


def fixed_grids_are_kept(view: GraphView) -> Violations:
    """QNN10: 16-bit codes behind Sigmoid and Tanh have the one grid that the HTP has for them."""
    for q in filter(is_q, view.nodes):
        maker = view.producer(q.input(0))
        fixed = _FIXED.get((maker.op, code_type(view, q) or 0)) if maker is not None else None
        scale, zero = scale_of(view, q), zero_point_of(view, q)
        if maker is None or fixed is None or scale is None or zero is None:
            continue
        if (scale != np.float32(fixed[0])).any() or (zero != fixed[1]).any():
            yield (
                q,
                f"16-bit {maker.op} has scale 1/{round(1 / fixed[0])} and zero point {fixed[1]}; fix the grid to it",
            )


def inputs_have_a_grid(view: GraphView) -> Violations:
    """QNN09: what a quantized network reads goes to Qs, or comes in as codes."""
    if not any(map(is_q, view.nodes)):
        return
    for tensor in sorted(view.inputs):
        sinks = [node for node in view.sinks(tensor, _FREE) if node.op != "Shape"]  # sizes are no values
        odd = [node for node in sinks if not (is_q(node) or layers.limits_codes(view, node))]
        if odd and view.dtype(tensor) in grids.FLOAT_TYPES:
            yield odd[0], f"reads network input '{tensor}' in float; put a Q/DQ on it"


QNN_RULES = (
    LintRule(
        "QNN01",
        "error",
        "scales are constant, finite, positive floats, one zero point each",
        "ONNX operator QuantizeLinear",
        grids.scales_are_positive_constants,
    ),
    LintRule(
        "QNN02",
        "error",
        "activations have codes of 8 or 16 bits",
        _ORT,
        partial(
            grids.codes_have_types,
            types=grids.EIGHT_BITS | grids.SIXTEEN_BITS,
            constants=False,
            otherwise="the HTP has activations of 8 and 16 bits",
        ),
    ),
    LintRule(
        "QNN03",
        "error",
        "weights have codes of 4, 8 or 16 bits",
        _ORT,
        partial(
            grids.codes_have_types,
            types=grids.EIGHT_BITS | grids.SIXTEEN_BITS | grids.FOUR_BITS,
            constants=True,
            otherwise="the HTP has weights of 4, 8 and 16 bits",
        ),
    ),
    LintRule("QNN04", "error", "before opset 21, 16 and 4 bits are com.microsoft's", _ORT, grids.opset_has_the_codes),
    LintRule("QNN05", "error", "only constants have a vector of scales", _AIMET, grids.activations_have_one_scale),
    LintRule(
        "QNN06",
        "error",
        "scales of channels fit their axis, which is the output channel's",
        f"ONNX operator QuantizeLinear; {_ORT}",
        grids.channel_axes_are_right,
    ),
    LintRule(
        "QNN07",
        "error",
        "scales of channels on the weights of Conv, ConvTranspose, Gemm, MatMul and PRelu alone",
        _AIMET,
        partial(grids.constants_have_one_scale, but=_PER_CHANNEL),
    ),
    LintRule("QNN08", "warning", "weights are symmetric", _AIMET, grids.weights_are_symmetric),
    LintRule("QNN09", "warning", "what the network reads has a grid", _AIMET, inputs_have_a_grid),
    LintRule("QNN10", "error", "16-bit Sigmoid and Tanh have their fixed grids", _ORT, fixed_grids_are_kept),
    LintRule(
        "QNN11",
        "error",
        "no Q/DQ inside a supergroup",
        _AIMET,
        partial(layers.groups_have_no_pair, fused=_SUPERGROUPS),
    ),
    LintRule(
        "QNN12",
        "warning",
        "the result of every op outside a supergroup has a grid",
        _AIMET,
        partial(
            layers.results_have_a_grid,
            fused=_MAY_FOLLOW,
            free=_FREE,
            kinds=frozenset({"GELU", "LayerNorm"}),
            outputs=True,
        ),
    ),
    LintRule(
        "QNN13",
        "warning",
        "a weighted op dequantizes data and weight, or neither",
        _AIMET,
        placement.weighted_ops_are_quantized_whole,
    ),
    LintRule("QNN14", "warning", "data movement has one grid before and behind", _ORT, placement.moves_keep_the_grid),
    LintRule("QNN15", "error", "a bias lies on the grid scale_x * scale_w", _ORT, grids.biases_lie_on_the_grid),
    LintRule(
        "QNN16",
        "error",
        "a Q feeds DQs or ops on codes, a DQ comes from a Q, no pair is repeated",
        "ONNX operator QuantizeLinear",
        partial(placement.pairs_are_complete, on_codes=ON_CODES, codes_come_in=True),
    ),
)
