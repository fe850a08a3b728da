"""ONNX Runtime's CPU provider on x86-64: what its QDQ transformers turn into integer kernels.

Sources: onnxruntime core/optimizer/qdq_transformer (selectors, propagation, weight_bias_quantization), and the
experiments of docs/targets.md, run on 1.31 at the extended and full optimization levels.
"""

from qatc.targets.lint import RULE_LISTS
from qatc.targets.target import ActivationRule, FileRule, OpRule, Target, VerifyRule, WeightRule

# Integer only if input and output both carry Q/DQ (ConvNodeGroupSelector, BinaryNodeGroupSelector, ...).
_INTEGER = OpRule(inputs="quantized", output="quantized", final=True)
# QGemm and MatMulIntegerToFloat give a float result, so logits and what only float ops read keep their precision.
_FLOAT_END = OpRule(inputs="quantized", output="wanted")
# Moves codes; QDQ propagation carries Q and DQ past it.
_MOVES = OpRule(output="same")
# Moves codes too, but QDQ propagation does not look through it.
_MOVES_BETWEEN = OpRule(output="again")

ONNXRUNTIME = Target(
    name="onnxruntime",
    summary="ONNX Runtime, CPU provider (x86-64): uint8 activations, int8 weights per channel, int32 biases",
    # A signed tensor read by two ops is not rewritten to unsigned, and signed kernels are off on x86-64: unsigned fuses
    # everywhere. A clip is dropped only where the grid ends inside it (CPU ClipQuantFusion).
    activation=ActivationRule(signed=False, symmetric=False, grid_within_clip=True),
    weight=WeightRule(narrow=True, per_channel=frozenset({"Conv", "ConvTranspose", "Gemm", "BatchNormalization"})),
    ops={
        "Conv": _INTEGER,
        "ConvTranspose": _INTEGER,  # has no integer kernel, so it is lowered as a convolution
        "BatchNormalization": _INTEGER,  # lowered as a depthwise convolution
        "Gemm": _FLOAT_END,
        "MatMul": _FLOAT_END,
        "Add": _INTEGER,
        "Mul": _INTEGER,
        "Concat": _INTEGER,  # QLinearConcat requantizes each input: free scales
        "AveragePool": _INTEGER,
        "GlobalAveragePool": _INTEGER,
        "ReduceMean": _INTEGER,  # over all positions it is lowered as GlobalAveragePool
        "Sigmoid": _INTEGER,
        "LeakyRelu": _INTEGER,
        "MaxPool": _MOVES,
        "Reshape": _MOVES,
        "Transpose": _MOVES,
        "Identity": _MOVES,
        "Slice": _MOVES,
        "Cast": _MOVES,  # from float to float: nothing is left of it in the file
        "Resize-nearest": _MOVES_BETWEEN,
        "Gather": _MOVES_BETWEEN,
        "GatherElements": _MOVES_BETWEEN,
        "Expand": _MOVES_BETWEEN,
        "Tile": _MOVES_BETWEEN,
        "DepthToSpace": _MOVES_BETWEEN,
        "ReduceMax": _MOVES_BETWEEN,
        "ReduceMin": _MOVES_BETWEEN,
        "Pad": OpRule(output="again", into=frozenset({"Conv"})),
        "Relu": OpRule(reason="an activation with no integer op in front has no integer kernel"),
        "Clip": OpRule(reason="an activation with no integer op in front has no integer kernel"),
        "Resize-linear": OpRule(reason="linear interpolation has no integer kernel"),
        "HardSwish": OpRule(reason="HardSwish has no integer kernel"),
        "Softmax": OpRule(reason="the integer Softmax moves 0.3 % of the codes"),
    },
    # ReLU and Clip vanish into the saturation of the Q that follows.
    epilogues={
        "Conv": frozenset({"Relu", "Clip"}),
        "ConvTranspose": frozenset({"Relu", "Clip"}),
        "BatchNormalization": frozenset({"Relu", "Clip"}),
        "Gemm": frozenset({"Relu", "Clip"}),
        "Add": frozenset({"Relu", "Clip"}),
        "Mul": frozenset({"Relu", "Clip"}),
        "Concat": frozenset({"Relu", "Clip"}),
    },
    # QLinearSigmoid and QLinearMul: in one, SiLU is float between DequantizeLinear and QuantizeLinear. The parts of
    # a hard swish are slower than the float whole (docs/targets.md).
    parts=frozenset({"Swish"}),
    # WeightBiasQuantization gives float weights between DQ and Q scales of its own (1.31: 13 % of the codes changed).
    # QLinearSoftmax moves 0.3 % of the codes.
    file=FileRule(
        opset=(13, 21, 18),
        bias="int32",
        low_bits="clip_codes",
        mean="GlobalAveragePool",
        transposed="Conv",
        guarded=frozenset({"Conv", "ConvTranspose", "Gemm", "Softmax"}),
        # QDQPropagation: a float output in front of a Transpose came out on the grid behind it (1.31).
        pulls_grids=True,
        # PadFusion makes zeros a MaxPool's padding, which it leaves out of the maximum: wrong where all is below zero.
        kept_apart={"Pad": frozenset({"MaxPool"})},
        # Of 4-bit weights all ops are float; 4-bit activations do not load where propagation takes Q past a MaxPool
        # (1.31: "Type 'tensor(int4)' of input parameter (q) of operator (MaxPool) is invalid").
        sub_byte=("widen", "native", "qcdq"),
        native=frozenset({"weights"}),
    ),
    lint=RULE_LISTS["onnxruntime"],
    verify=VerifyRule(runtimes=("onnxruntime",), differing=1e-5),
    most_bits=16,  # no integer kernel takes more than 8: what has more is dequantized, and computed in float32
)
