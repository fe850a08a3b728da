"""Texas Instruments' TIDL, by device generation: the devices with an MMAv2, and the older J721E / TDA4VM (MMAv1).

Sources: docs/quantization.md of edgeai-tidl-tools ("TIDL Layer Quantization Restrictions" and its notes), called the
table below; its docs/operators.md and docs/model_compilation.md; the v3 quantizer of edgeai-tensorlab
(quantization/v3/quantizer/tidlrt, and qconfig_types.py).
"""

from dataclasses import replace

from qatc.targets.lint import RULE_LISTS
from qatc.targets.target import ActivationRule, FileRule, OpRule, Target, VerifyRule, WeightRule

# Table: layers whose activations may be asymmetric. A grid on every input and on the result, since the device's tensors
# are integers between all layers.
_ASYMMETRIC = OpRule(inputs="quantized", output="quantized", final=True)
# Table: all others have their zero point at 0.
_SYMMETRIC = replace(_ASYMMETRIC, grid="symmetric")
# Table, "requires QDQ nodes: no", and a zero point passes through.
_PASSES = OpRule(output="same")
# Table, "requires QDQ nodes: no", symmetric.
_MOVES = OpRule(output="same", grid="symmetric")
# Table: moves values, but has Q/DQ behind it once more.
_MOVES_BETWEEN = OpRule(output="again", grid="symmetric", final=True)
# Notes: no Q/DQ in front of a ReLU that has Q/DQ behind it (operators.md: a Clip with min <= 0 and max > 0 likewise).
_EPILOGUE = frozenset({"Relu", "Clip"})

TIDL = Target(
    name="tidl",
    summary="TI TIDL, devices with MMAv2 (AM62A, AM67A, AM68A, AM69A): asymmetric where a layer allows it, per channel",
    # Notes: the network's input is symmetric, since the layer that converts the data has no zero point.
    activation=ActivationRule(signed=False, symmetric=False, network_input="symmetric"),
    # Table: a scale per channel of a convolution and per column of an inner product, one for all other weights.
    weight=WeightRule(narrow=True, per_channel=frozenset({"Conv", "Gemm", "BatchNormalization"})),
    lint=RULE_LISTS["tidl"],
    ops={
        "Conv": _ASYMMETRIC,
        "Gemm": _ASYMMETRIC,  # TIDL_InnerProductLayer with a constant B
        "MatMul": _SYMMETRIC,  # that of two activations (v3 quantizer: one that is never negative keeps unsigned codes)
        "Add": _ASYMMETRIC,  # TIDL_EltWiseLayer: asymmetric for Add alone
        "Sub": _SYMMETRIC,
        "Mul": _SYMMETRIC,
        "Div": _SYMMETRIC,
        "Max": _SYMMETRIC,
        "Min": _SYMMETRIC,
        "Concat": _ASYMMETRIC,
        "Softmax": _ASYMMETRIC,
        "LayerNormalization": _ASYMMETRIC,  # notes: one pattern, a grid at its end only
        "Reshape": _PASSES,
        "Transpose": _PASSES,
        "Identity": _PASSES,
        "Cast": _PASSES,  # from float to float: nothing is left of it in the file
        "ConvTranspose": _SYMMETRIC,  # TIDL_Deconv2DLayer
        "BatchNormalization": _ASYMMETRIC,  # written as a depthwise convolution
        "MaxPool": _MOVES_BETWEEN,  # TIDL_PoolingLayer
        "AveragePool": _SYMMETRIC,
        "GlobalAveragePool": _SYMMETRIC,
        "ReduceMean": _SYMMETRIC,  # written as GlobalAveragePool where it is over all positions
        "ReduceMax": _MOVES_BETWEEN,  # TIDL_ReduceLayer
        "ReduceMin": _MOVES_BETWEEN,
        "Resize-nearest": _MOVES_BETWEEN,  # TIDL_ResizeLayer
        "Resize-linear": _SYMMETRIC,
        "DepthToSpace": _MOVES_BETWEEN,
        "Gather": _MOVES_BETWEEN,
        "Slice": _MOVES,  # TIDL_SliceLayer, TIDL_SplitLayer
        "Pad": replace(_MOVES, into=frozenset({"Conv"})),
        "Relu": _SYMMETRIC,
        "Clip": _SYMMETRIC,
        "PRelu": _SYMMETRIC,
        "LeakyRelu": _SYMMETRIC,
        "Sigmoid": _SYMMETRIC,
        "Tanh": _SYMMETRIC,
        "HardSigmoid": _SYMMETRIC,
        "Elu": _SYMMETRIC,
        # Notes: GELU and SiLU are patterns with a grid at their end only; operators.md: HardSwish and Mish are layers.
        "Gelu": _SYMMETRIC,
        "Swish": _SYMMETRIC,
        "HardSwish": _SYMMETRIC,
        "Mish": _SYMMETRIC,
    },
    epilogues={
        "Conv": _EPILOGUE,
        "ConvTranspose": _EPILOGUE,
        "BatchNormalization": _EPILOGUE,
        "Gemm": _EPILOGUE,
        "Add": _EPILOGUE,
        "Sub": _EPILOGUE,
        "Mul": _EPILOGUE,
        "Div": _EPILOGUE,
    },
    # Notes: no Q/DQ inside the patterns.
    wholes=frozenset({"Swish", "HardSwish"}),
    # v3 quantizer: int32 biases at the product of the scales. operators.md: ONNX Runtime 1.15 reads opset 19 at most,
    # a layer for GlobalAveragePool, depthwise kernels of 3x3 and more but not of 1x1.
    file=FileRule(
        opset=(13, 19, 18), bias="int32", low_bits="clip_values", mean="GlobalAveragePool", batch_norm_kernel=3
    ),
    # No TIDL to run: ONNX Runtime executes Q/DQ as written.
    verify=VerifyRule(runtimes=("onnxruntime-unoptimized",), differing=1e-5),
    # model_compilation.md: scales and zero points are read from the file; asymmetric, per channel.
    runtime_options={
        "tensor_bits": 8,
        "advanced_options:prequantized_model": 1,
        "advanced_options:quantization_scale_type": 4,
    },
    options_suffix=".tidl.json",
)

TIDL_TDA4VM = replace(
    TIDL,
    name="tidl-tda4vm",
    summary="TI TIDL, J721E / TDA4VM (MMAv1): int8 symmetric, power-of-two scales, one per tensor",
    # quantization.md: every SoC but this one is asymmetric. operators.md: no product of signed and unsigned codes here,
    # so all are signed.
    activation=ActivationRule(signed=True, symmetric=True),
    # qconfig_types.py, WT8SYMP2_AT8SYMP2: one scale per tensor, a power of two, for weights and activations.
    weight=WeightRule(narrow=True),
    lint=RULE_LISTS["tidl-tda4vm"],
    pow2=True,
    # model_compilation.md: scales are powers of two.
    runtime_options={**TIDL.runtime_options, "advanced_options:quantization_scale_type": 1},
)
