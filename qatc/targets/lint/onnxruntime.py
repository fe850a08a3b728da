"""The rules that a QDQ file for ONNX Runtime's CPU provider on x86-64 keeps, one line a rule.

Sources: onnxruntime core/optimizer and its qdq_transformer; optimized graphs and outputs of 1.31, which
tests/targets/test_lint_onnxruntime.py makes again; docs/targets.md.
"""

from functools import partial

from qatc.targets.lint import grids, placement
from qatc.targets.lint import onnxruntime_kernels as kernels
from qatc.targets.lint import onnxruntime_values as values
from qatc.targets.lint.qdq import MOVES
from qatc.targets.lint.rule import LintRule

_ONNX = "ONNX operator QuantizeLinear"
_SELECTORS = "onnxruntime qdq_transformer/selectors_actions"
_MEASURED = "measured on 1.31"
# The runtime has these on uint8 and int8 (operator kernels of the CPU provider).
ON_CODES = MOVES | {"Clip", "GatherElements", "Identity", "Pad", "ReduceMax", "ReduceMin", "Resize"}

ONNXRUNTIME_RULES = (
    LintRule("ORT01", "error", "scales are finite and positive, one zero point each", _ONNX, grids.scales_are_positive),
    LintRule("ORT02", "error", "the opset has the codes, or com.microsoft does", _ONNX, grids.opset_has_the_codes),
    LintRule(
        "ORT03",
        "warning",
        "codes have 8 bits",
        f"{_SELECTORS}; {_MEASURED}",
        partial(
            grids.codes_have_types,
            types=grids.EIGHT_BITS,
            otherwise="no integer kernel takes them, so what reads them runs in float",
        ),
    ),
    LintRule(
        "ORT04",
        "error",
        "only constants have a vector of scales",
        f"qlinearconv.cc; {_MEASURED}",
        grids.activations_have_one_scale,
    ),
    LintRule(
        "ORT05",
        "error",
        "scales of channels fit their axis, which is the output channel's of Conv, Gemm and MatMul",
        f"{_ONNX}; {_MEASURED}",
        partial(grids.channel_axes_are_right, of=frozenset({"Conv", "Gemm", "MatMul"})),
    ),
    LintRule(
        "ORT06",
        "error",
        "the bias of a quantized product is int32 with a DQ",
        f"qdq_transformer/weight_bias_quantization; {_MEASURED}",
        values.biases_are_dequantized,
    ),
    LintRule(
        "ORT07",
        "error",
        "a bias lies on the grid f32(scale_x * scale_w)",
        f"qdq_transformer/qdq_util; {_MEASURED}",
        grids.biases_lie_on_the_grid,
    ),
    LintRule(
        "ORT08",
        "error",
        "no float weights between DQ and Q",
        f"qdq_transformer/weight_bias_quantization; {_MEASURED}",
        values.weights_are_dequantized,
    ),
    LintRule(
        "ORT09",
        "warning",
        "a product dequantizes data and weight, with nothing between that moves codes, and has no factors",
        f"{_SELECTORS}; qdq_propagation; {_MEASURED}",
        kernels.products_have_integer_form,
    ),
    LintRule(
        "ORT10",
        "warning",
        "what an integer kernel computes goes to Qs of one grid alone, past a ReLU or clip at most",
        f"{_SELECTORS}; {_MEASURED}",
        kernels.results_go_to_one_grid,
    ),
    LintRule(
        "ORT11",
        "warning",
        "the grid behind a ReLU or clip ends inside it",
        f"qdq_transformer/clip_quantizelinear; {_MEASURED}",
        kernels.grids_end_within_clips,
    ),
    LintRule(
        "ORT12",
        "warning",
        "an Add, Mul or Concat that reads a DQ reads DQs alone, of one type of codes",
        f"{_SELECTORS}; {_MEASURED}",
        kernels.elementwise_ops_read_codes,
    ),
    LintRule(
        "ORT13",
        "warning",
        "int8 codes of an activation have one reader",
        f"qdq_transformer/qdq_s8_to_u8; {_MEASURED}",
        kernels.signed_tensors_have_one_reader,
    ),
    LintRule(
        "ORT14",
        "error",
        "from opset 21 on no pool or reshape reads int8 codes unless a Q follows",
        f"onnxruntime issue 25526; {_MEASURED}",
        values.signed_codes_are_not_propagated,
    ),
    LintRule(
        "ORT15",
        "warning",
        "ops that only move values have one grid before and behind",
        f"{_SELECTORS}; {_MEASURED}",
        placement.moves_keep_the_grid,
    ),
    LintRule(
        "ORT16",
        "warning",
        "an op without an integer kernel is written as one that has",
        f"{_SELECTORS}; {_MEASURED}",
        kernels.ops_take_their_integer_form,
    ),
    LintRule(
        "ORT17",
        "note",
        "an op between DQ and Q without an integer kernel",
        f"{_SELECTORS}; {_MEASURED}",
        kernels.float_islands,
    ),
    LintRule(
        "ORT18",
        "error",
        "no pair stands right behind one of another grid",
        f"onnxruntime double_qdq_pairs_remover; {_MEASURED}",
        values.pairs_do_not_follow_pairs,
    ),
    LintRule(
        "ORT19",
        "error",
        "a Q feeds DQs or ops on codes, a DQ comes from a Q, no pair is repeated",
        _ONNX,
        partial(placement.pairs_are_complete, on_codes=ON_CODES, codes_come_in=True),
    ),
    LintRule(
        "ORT20",
        "warning",
        "with powers of two an Add, Mul or AveragePool has an even zero point behind",
        f"mlas qladd, qlmul and qlavgpool; {_MEASURED}",
        partial(placement.odd_zero_points_break_no_ties, of=frozenset({"Add", "AveragePool", "Mul"})),
    ),
    LintRule(
        "ORT21",
        "warning",
        "no Softmax between DQ and Q of free scales",
        f"qlinear_softmax.cc; {_MEASURED}",
        values.softmax_stays_float,
    ),
    LintRule(
        "ORT22",
        "note",
        "weights saturate pairs of products on CPUs without VNNI",
        "onnxruntime docs, Quantize ONNX models, U8S8 saturation",
        values.products_may_saturate,
    ),
    LintRule(
        "ORT23",
        "warning",
        "scales are float32",
        f"{_SELECTORS}; {_MEASURED}",
        kernels.scales_are_float32,
    ),
)
