"""TensorRT with explicit quantization.

Sources: NvInfer.h (IQuantizeLayer, IDequantizeLayer), the importer of onnx-tensorrt (QuantDequantLinearHelper), and
"Explicit Quantization" in NVIDIA's developer guide; docs/targets.md has each rule with its own.
"""

from qatc.targets.lint import RULE_LISTS
from qatc.targets.target import ActivationRule, FileRule, OpRule, Target, VerifyRule, WeightRule

# Q/DQ stand on the inputs of a weighted op; its result stays float for the fused epilogue.
_WEIGHTED = OpRule(inputs="quantized")
# An op without weights runs in int8 only between DQ and Q (guide: "Q/DQ layer-placement recommendations").
_BETWEEN = OpRule(inputs="between", output="quantized")
# Q and DQ commute with it.
_MOVES = OpRule(output="same")
_EPILOGUE = frozenset({"Relu", "Clip"})

TENSORRT = Target(
    name="tensorrt",
    summary="NVIDIA TensorRT, explicit quantization: int8 symmetric, skip inputs of residual adds, float biases",
    activation=ActivationRule(signed=True, symmetric=True),
    weight=WeightRule(narrow=True, per_channel=frozenset({"Conv", "ConvTranspose", "Gemm"})),
    ops={
        "Conv": _WEIGHTED,
        "ConvTranspose": _WEIGHTED,
        "Gemm": _WEIGHTED,
        "MatMul": _WEIGHTED,
        "Add": OpRule(inputs="skip"),
        # A gate (squeeze-and-excite); within SiLU no grid stands, since that is one op (Model Optimizer).
        "Mul": OpRule(inputs="between", output="wanted"),
        "AveragePool": _BETWEEN,
        "GlobalAveragePool": _BETWEEN,
        "ReduceMean": _BETWEEN,
        "MaxPool": _MOVES,
        "Reshape": _MOVES,
        "Transpose": _MOVES,
        "Identity": _MOVES,
        "Slice": _MOVES,
        "Gather": _MOVES,
        "Cast": _MOVES,  # from float to float: nothing is left of it in the file
        "Concat": _MOVES,  # Q is pushed through it, so its inputs share the grid of its result
        "Resize-nearest": _BETWEEN,
        "Resize-linear": _BETWEEN,
        "Pad": OpRule(into=frozenset({"Conv"}), reason="a padding layer of its own runs in the float precision"),
        "BatchNormalization": OpRule(reason="a scale layer of its own runs in the float precision"),
        "Relu": OpRule(reason="fused to the layer in front"),
        "Clip": OpRule(reason="fused to the layer in front"),
        "Swish": OpRule(reason="fused to the layer in front"),
        "HardSwish": OpRule(reason="fused to the layer in front"),
        "Softmax": OpRule(reason="Softmax is not quantized on this target"),
        "LayerNormalization": OpRule(reason="LayerNormalization is not quantized on this target"),
    },
    concat="shared",
    wholes=frozenset({"Swish", "HardSwish"}),
    epilogues={"Conv": _EPILOGUE, "ConvTranspose": _EPILOGUE, "Gemm": _EPILOGUE, "Add": _EPILOGUE},
    # Per-channel Q/DQ needs 13; nothing below 8 bits passes the importer but block-wise int4, and no Clip of codes.
    # Scales may be float16 (QuantDequantLinearHelper): in strongly typed networks they say the type of what DQ gives.
    file=FileRule(
        (13, 21, 18), bias="float", low_bits="clip_values", mean="GlobalAveragePool", floats=("fp32", "fp16")
    ),
    # No TensorRT to run: ONNX Runtime executes Q/DQ as written.
    verify=VerifyRule(runtimes=("onnxruntime-unoptimized",), differing=1e-5),
    lint=RULE_LISTS["tensorrt"],
)
