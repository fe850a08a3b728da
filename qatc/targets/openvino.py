"""OpenVINO's CPU plugin: which layers its low precision transformations run in 8 bits, and what it fuses behind them.

Sources: `runtimePrecision` of the graph that 2026.4 runs, and its codes against the simulation's; docs/targets.md has
each figure. What the rules follow of OpenVINO's own are its "Low Precision Transformations" and NNCF's setup for CPUs.
"""

from qatc.targets.lint import RULE_LISTS
from qatc.targets.target import ActivationRule, FileRule, OpRule, Target, VerifyRule, WeightRule

# Q/DQ stand on the inputs; the float result goes through what is fused behind it, to the next Q.
_WEIGHTED = OpRule(inputs="quantized")
# In 8 bits between DQ and Q.
_BETWEEN = OpRule(inputs="quantized", output="quantized")
# Moves codes where they stand in front of it: in 8 bits itself, and the layer in front then gives 8 bits.
_MOVES_CODES = OpRule(inputs="quantized", output="same")
# Moves codes where they stand in front of it, and asks for none: what it arranges may be for float ops alone.
_MOVES = OpRule(output="same")
_FUSED = OpRule(reason="fused to the layer in front, in float32")
_FLOAT = OpRule(reason="runs in float32")
# Measured: each leaves no layer of its own behind a convolution, a matrix product by weights, and a sum.
_EPILOGUE = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "Tanh", "Swish", "Mish", "HardSwish", "Gelu"}
)

OPENVINO = Target(
    name="openvino",
    summary="OpenVINO, CPU plugin: uint8 activations, int8 operands of matrix products, skip inputs of residual adds",
    # Signed codes compute something else in three places: concatenations with tensors that are never negative, in
    # transposed convolutions (memory that was never written), and codes that the file as it is gives but its parts do
    # not. Unsigned ones with a zero point do not, and have twice the steps behind a ReLU.
    activation=ActivationRule(signed=False, symmetric=False),
    # A weight with a zero point keeps its layer in float32; scales per channel do not.
    weight=WeightRule(narrow=True, per_channel=frozenset({"Conv", "ConvTranspose", "Gemm"})),
    ops={
        "Conv": _WEIGHTED,
        "ConvTranspose": _BETWEEN,  # its sub-pixel form arranges codes, so a grid stands behind it
        "Gemm": _WEIGHTED,
        # A product of two activations runs in 8 bits only if both are signed and have no zero point; in attention, too.
        "MatMul": OpRule(inputs="quantized", grid="signed"),
        # It becomes the convolution's epilogue, and Q/DQ between the two are dropped: 20 % of codes changed.
        "Add": OpRule(inputs="skip"),
        "AveragePool": _BETWEEN,
        "GlobalAveragePool": _BETWEEN,
        "ReduceMean": _BETWEEN,
        "MaxPool": _MOVES_CODES,
        "Resize-nearest": _MOVES_CODES,
        "Reshape": _MOVES,
        "Transpose": _MOVES,
        "Identity": _MOVES,
        "Slice": _MOVES,
        "Gather": _MOVES,
        "DepthToSpace": _MOVES,
        "Cast": _MOVES,  # from float to float: nothing is left of it in the file
        "Concat": _MOVES,  # Q is pulled in front of it, so its inputs share the grid of its result
        "Pad": OpRule(into=frozenset({"Conv"}), reason="runs in float32"),
        "Mul": OpRule(reason="runs in float32; a grid on its operands saves no time"),
        "Resize-linear": _FLOAT,
        "BatchNormalization": OpRule(reason="a multiply-add of its own, fused to float ops around it"),
        "Softmax": _FLOAT,
        "LayerNormalization": _FLOAT,
        "HardSigmoid": _FLOAT,
        **dict.fromkeys(_EPILOGUE, _FUSED),
    },
    # Inputs with scales of their own give a requantization for each: densenet121 took 1.6 times as long.
    concat="shared",
    epilogues=dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "Add"), _EPILOGUE),
    file=FileRule(
        # Below 13 there are no scales per channel; 2026.4 reads all of these.
        opset=(13, 21, 18),
        # Float is as good; this one ONNX Runtime has in integers too.
        bias="int32",
        # A clip of values is fused to the layer in front, one of codes is a layer of its own.
        low_bits="clip_values",
        # Integer either way.
        mean="GlobalAveragePool",
        # Deconvolution is float32 where it is grouped or its input has a zero point; the sub-pixel form never is.
        transposed="Conv",
    ),
    verify=VerifyRule(runtimes=("openvino",), differing=1e-5),
    lint=RULE_LISTS["openvino"],
)
