"""What each module is to a target: the ONNX operator that it becomes, and the values that it can give.

Targets speak of ONNX operators (their vendors do); passes ask here.
"""

import math

from torch import nn

from qatc.modules import ops
from qatc.modules.batch_norms import GivenBatchNorm
from qatc.modules.fused import Fused
from qatc.quantizers.base import Quantizer

# The first type that fits decides.
_KINDS: tuple[tuple[type[nn.Module] | tuple[type[nn.Module], ...], str], ...] = (
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "ConvTranspose"),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), "Conv"),
    (nn.Linear, "Gemm"),
    ((nn.modules.batchnorm._BatchNorm, GivenBatchNorm), "BatchNormalization"),
    (ops.Add, "Add"), (ops.Sub, "Sub"), (ops.Mul, "Mul"), (ops.Div, "Div"),
    (ops.MatMul, "MatMul"), (ops.Concat, "Concat"), (ops.Mean, "ReduceMean"),
    ((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
     "MaxPool"),
    ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), "GlobalAveragePool"),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), "AveragePool"),
    ((nn.Flatten, nn.Unflatten, ops.Reshape, ops.Squeeze, ops.Unsqueeze), "Reshape"),
    ((ops.Permute, ops.Transpose), "Transpose"),
    ((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
     "Identity"),
    (nn.ReLU, "Relu"), ((nn.ReLU6, nn.Hardtanh), "Clip"),
    (nn.Sigmoid, "Sigmoid"), (nn.Tanh, "Tanh"), (nn.SiLU, "Swish"), (nn.Hardswish, "HardSwish"),
    (nn.Hardsigmoid, "HardSigmoid"), (nn.GELU, "Gelu"), (nn.LeakyReLU, "LeakyRelu"), (nn.PReLU, "PRelu"),
    (nn.ELU, "Elu"), (nn.Softmax, "Softmax"), (nn.LayerNorm, "LayerNormalization"),
    (nn.Embedding, "Gather"),
)  # fmt: skip

_RANGES: dict[type[nn.Module], tuple[float, float]] = {
    nn.ReLU: (0.0, math.inf), nn.Sigmoid: (0.0, 1.0), nn.Hardsigmoid: (0.0, 1.0),
    nn.Softmax: (0.0, 1.0), nn.Tanh: (-1.0, 1.0),
}  # fmt: skip


def op_kind(module: nn.Module) -> str:
    """Return the ONNX operator that the module becomes, or its type's name where there is no single one."""
    if isinstance(module, ops.Interpolate | nn.Upsample):
        return "Resize-nearest" if module.mode == "nearest" else "Resize-linear"
    return next((name for types, name in _KINDS if isinstance(module, types)), type(module).__name__)


def output_range(module: nn.Module) -> tuple[float, float] | None:
    """Return the least and greatest value that the module can give whatever its input; None if that depends on it."""
    last = getattr(module, "activation", None) if isinstance(module, Fused) else module
    if isinstance(last, nn.Hardtanh):
        return float(last.min_val), float(last.max_val)
    found = _RANGES.get(type(last)) if last is not None else None
    return (-math.inf, math.inf) if found is None and isinstance(module, Fused) else found


def describe_quant(module: nn.Module) -> str:
    """Return how a module quantizes, for a dump: `w=s8/ch0` of a layer, the spec of a quantizer."""
    if isinstance(module, Quantizer):
        return str(module.spec)
    quantizer = getattr(module, "weight_quantizer", None)
    return f"w={quantizer.spec}" if isinstance(quantizer, Quantizer) else ""
