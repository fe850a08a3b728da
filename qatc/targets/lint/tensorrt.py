"""The rules that a QDQ file for TensorRT keeps, one line a rule.

Sources: NvInfer.h (IQuantizeLayer, IDequantizeLayer); onnx-tensorrt's onnxOpImporters.cpp; TensorRT's documentation,
page "Explicit Quantization"; ModelOpt's modelopt/onnx/quantization; NVIDIA's tensorflow-quantization toolkit.
"""

from functools import partial

from qatc.targets.lint import grids
from qatc.targets.lint import placement as shared
from qatc.targets.lint import tensorrt_format as form
from qatc.targets.lint import tensorrt_fusion as fusion
from qatc.targets.lint import tensorrt_placement as placement
from qatc.targets.lint.rule import LintRule

_PARSER = "onnx-tensorrt onnxOpImporters.cpp QuantDequantLinearHelper"
_HEADER = "NvInfer.h IQuantizeLayer"
_DOCS = "TensorRT docs, Explicit Quantization"
_TOOLKIT = "tensorflow-quantization custom Q/DQ cases"
_MODELOPT = "ModelOpt onnx quantization"

TENSORRT_RULES = (
    LintRule("TRT01", "error", "zero points are constant zeros", f"{_HEADER}; {_PARSER}", form.zero_points_are_zero),
    LintRule(
        "TRT02",
        "error",
        "codes are int8, fp8e4m3, int4 or fp4, and a Q says which",
        _PARSER,
        form.codes_have_a_tensorrt_type,
    ),
    LintRule(
        "TRT03",
        "error",
        "biases are float initializers without a DQ",
        f"{_PARSER}; onnxruntime issue 14229; onnx-tensorrt issue 850",
        form.biases_are_float,
    ),
    LintRule(
        "TRT04",
        "error",
        "scales are constant, finite, positive floats, one zero point each",
        f"{_HEADER}; {_PARSER}",
        grids.scales_are_positive_constants,
    ),
    LintRule(
        "TRT05",
        "error",
        "only constants have a vector of scales",
        _HEADER,
        partial(grids.activations_have_one_scale, blocks=form.BLOCK_ACTIVATION_TYPES),
    ),
    LintRule(
        "TRT06",
        "error",
        "per-channel scales name the output channel's axis and fit it",
        f"{_PARSER}; {_MODELOPT}",
        partial(grids.channel_axes_are_right, default=None),
    ),
    LintRule(
        "TRT07",
        "error",
        "the opset has the form used; 4-bit sizes are even, blocks lie in one dimension",
        _PARSER,
        form.opset_fits_the_codes,
    ),
    LintRule("TRT08", "error", "no scalar is quantized", _HEADER, form.data_has_a_rank),
    LintRule(
        "TRT09",
        "error",
        "a weighted op dequantizes data and weight, or neither",
        f"{_DOCS}; {_MODELOPT}",
        shared.weighted_ops_are_quantized_whole,
    ),
    LintRule(
        "TRT10",
        "warning",
        "no Q/DQ between a weighted op and the end of its epilogue",
        f"{_DOCS}; {_TOOLKIT}",
        fusion.epilogues_are_whole,
    ),
    LintRule(
        "TRT11",
        "error",
        "a residual Add reads the skip from a DQ, the other side raw",
        f"{_DOCS}; {_MODELOPT}; {_TOOLKIT}",
        fusion.residual_adds_quantize_the_skip,
    ),
    LintRule(
        "TRT12",
        "warning",
        "all Q on one tensor have the same scale",
        f"{_DOCS}; {_TOOLKIT}",
        shared.one_scale_per_tensor,
    ),
    LintRule(
        "TRT13",
        "warning",
        "a quantized Concat has one scale before and behind",
        _MODELOPT,
        shared.concats_share_a_scale,
    ),
    LintRule(
        "TRT14",
        "warning",
        "a pool, Resize, unfused Add or Mul with a DQ input has only such inputs, and a Q behind",
        f"{_DOCS}; {_MODELOPT}",
        placement.integer_inputs_lead_to_integer_outputs,
    ),
    LintRule(
        "TRT15",
        "warning",
        "ops that only move values have no scale of their own",
        _DOCS,
        shared.moves_keep_the_grid,
    ),
    LintRule(
        "TRT16",
        "warning",
        "Softmax, LayerNorm, GELU, InstanceNorm and lone activations have no Q/DQ",
        _MODELOPT,
        placement.float_ops_have_no_pair,
    ),
    LintRule(
        "TRT17",
        "warning",
        "a squeeze-and-excite Mul reads two DQs; no Q/DQ inside a convolution's SiLU",
        f"{_TOOLKIT}; {_MODELOPT}",
        fusion.gates_are_quantized,
    ),
    LintRule(
        "TRT18",
        "warning",
        "quantized convolutions have channel counts with an int8 kernel",
        _MODELOPT,
        placement.quantized_convolutions_have_kernels,
    ),
    LintRule(
        "TRT19",
        "warning",
        "a quantized Gemm or MatMul is no vector product",
        _MODELOPT,
        placement.quantized_products_are_matrices,
    ),
    LintRule(
        "TRT20",
        "warning",
        "no Q/DQ between the last op and a graph output",
        _MODELOPT,
        placement.outputs_are_not_quantized,
    ),
    LintRule(
        "TRT21",
        "error",
        "a Q feeds only DQs, an activation's DQ comes from a Q, no pair is repeated",
        _DOCS,
        shared.pairs_are_complete,
    ),
    LintRule(
        "TRT22",
        "warning",
        "int8 weight codes stay in [-127, 127]",
        f"{_TOOLKIT}; {_MODELOPT}",
        form.weight_codes_are_narrow,
    ),
    LintRule(
        "TRT23",
        "warning",
        "a BatchNorm is folded or follows its convolution without a Q",
        f"{_DOCS}; {_TOOLKIT}",
        fusion.norms_follow_their_convolution,
    ),
    LintRule("TRT24", "warning", "no QLinear*, *Integer or com.microsoft ops", _PARSER, form.only_importable_ops),
)
