"""Qualcomm's HTP (Hexagon Tensor Processor), by ONNX Runtime's QNN provider or by QNN's own converter with encodings.

Sources: ONNX Runtime's quantization/execution_providers/qnn/quant_config.py ("quant_config" below) and the operators of
its quantization registry; AIMET's quantsim_config/htp_quantsim_config_v73.json ("AIMET" below).
"""

from dataclasses import replace

from qatc.targets.lint import RULE_LISTS
from qatc.targets.target import ActivationRule, FileRule, FixedGrid, OpRule, Target, VerifyRule, WeightRule

# AIMET: inputs of the network and the result of every op have encodings.
_QUANTIZED = OpRule(inputs="quantized", output="quantized", final=True)
# AIMET: the result has no encoding of its own; registry: the same scale and zero point behind the op once more.
_MOVES = OpRule(output="again", final=True)
# AIMET: results between 0 and 1; quant_config: of 16 bits a sigmoid's are in steps of 1/65536.
_UNIT_INTERVAL = FixedGrid(8, 1 / 255, 0)

QNN = Target(
    name="qnn",
    summary="Qualcomm HTP (QNN): uint8 or uint16 activations, int8 weights per channel, encodings for its converter",
    # quant_config: unsigned activations with a zero point. AIMET: neither strict nor unsigned symmetric.
    activation=ActivationRule(signed=False, symmetric=False),
    # AIMET: symmetric; per channel in these ops (HTP v69 and later).
    weight=WeightRule(narrow=True, per_channel=frozenset({"Conv", "ConvTranspose", "Gemm", "BatchNormalization"})),
    lint=RULE_LISTS["qnn"],
    ops={
        "Conv": _QUANTIZED,
        "ConvTranspose": _QUANTIZED,
        "Gemm": _QUANTIZED,
        "MatMul": _QUANTIZED,
        "BatchNormalization": _QUANTIZED,  # written as a depthwise convolution
        "Add": _QUANTIZED,
        "Sub": _QUANTIZED,
        "Mul": _QUANTIZED,
        "Div": _QUANTIZED,
        "Max": _QUANTIZED,
        "Min": _QUANTIZED,
        "Concat": _QUANTIZED,  # per-op encodings
        "AveragePool": _QUANTIZED,
        "GlobalAveragePool": _QUANTIZED,
        "ReduceMean": _QUANTIZED,
        "Resize-linear": _QUANTIZED,
        "Softmax": replace(_QUANTIZED, fixed=(_UNIT_INTERVAL, FixedGrid(16, 1 / 65535, 0))),
        "Sigmoid": replace(_QUANTIZED, fixed=(_UNIT_INTERVAL, FixedGrid(16, 1 / 65536, 0))),
        # AIMET: between -1 and 1; quant_config: of 16 bits in steps of 1/32768 around 32768.
        "Tanh": replace(_QUANTIZED, fixed=(FixedGrid(8, 2 / 255, 128), FixedGrid(16, 1 / 32768, 32768))),
        "LayerNormalization": _QUANTIZED,
        "InstanceNormalization": _QUANTIZED,
        "Relu": _QUANTIZED,
        "Clip": _QUANTIZED,
        "LeakyRelu": _QUANTIZED,
        "PRelu": _QUANTIZED,
        "Elu": _QUANTIZED,
        "HardSwish": _QUANTIZED,
        "HardSigmoid": _QUANTIZED,
        "Gelu": _QUANTIZED,
        "MaxPool": _MOVES,
        "Reshape": _MOVES,
        "Transpose": _MOVES,
        "Slice": _MOVES,
        "Gather": _MOVES,  # AIMET: no encoding of its own
        "GatherElements": _MOVES,
        "Expand": _MOVES,
        "Tile": _MOVES,
        "DepthToSpace": _MOVES,
        "Pad": replace(_MOVES, into=frozenset({"Conv"})),
        "ReduceMax": _MOVES,
        "ReduceMin": _MOVES,
        "Resize-nearest": _MOVES,
        "Identity": OpRule(output="same"),
        "Cast": OpRule(output="same"),  # AIMET: no encoding; from float to float nothing is left of it in the file
    },
    # AIMET's supergroups, BatchNorms folded.
    epilogues={
        "Conv": frozenset({"Relu", "PRelu", "LeakyRelu", "HardSwish", "Clip"}),
        "BatchNormalization": frozenset({"Relu", "PRelu", "LeakyRelu", "HardSwish", "Clip"}),
        "ConvTranspose": frozenset({"Relu"}),
        "Gemm": frozenset({"Relu"}),
        "Add": frozenset({"Relu"}),
    },
    # ONNX has no operator for SiLU below opset 24: a sigmoid and a product, with an encoding each.
    parts=frozenset({"Swish"}),
    wholes=frozenset({"HardSwish"}),
    # quant_config: codes of 16 bits, and weights of 4, are opset 21's. AIMET: biases have no encodings; the converter
    # makes them int32 at the product of the scales, as they are in the file.
    file=FileRule(
        opset=(13, 21, 20),
        bias="int32",
        low_bits="clip_values",
        mean="GlobalAveragePool",
        padding="values",
        sub_byte=("widen", "native"),
        native=frozenset({"weights"}),
    ),
    # No HTP to run: ONNX Runtime executes Q/DQ as written.
    verify=VerifyRule(runtimes=("onnxruntime-unoptimized",), differing=1e-5),
    most_bits=16,
    # ONNX Runtime's QNN provider: the library of the HTP.
    runtime_options={"backend_path": "libQnnHtp.so"},
)
