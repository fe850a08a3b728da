"""What each module is to a target: the ONNX operator that it becomes, and the values that it can give.

Targets speak of ONNX operators (their vendors do); passes ask here.
"""

import math
from typing import Any

from torch import nn

from qatc.modules import clips, ops
from qatc.modules.batch_norms import GivenBatchNorm
from qatc.modules.fused import Fused
from qatc.quantizers.base import Quantizer
from qatc.spec import QuantSpec

Types = tuple[type[nn.Module], ...]

# The first type that fits decides.
_KINDS: tuple[tuple[type[nn.Module] | Types, str], ...] = (
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "ConvTranspose"),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), "Conv"),
    (nn.Linear, "Gemm"),
    ((nn.modules.batchnorm._BatchNorm, GivenBatchNorm), "BatchNormalization"),
    (ops.Add, "Add"), (ops.Sub, "Sub"), (ops.Mul, "Mul"), (ops.Div, "Div"), (ops.Pow, "Pow"), (ops.Maximum, "Max"),
    (ops.Minimum, "Min"), (ops.MatMul, "MatMul"),
    (ops.Mean, "ReduceMean"), (ops.Sum, "ReduceSum"), (ops.Amax, "ReduceMax"), (ops.Amin, "ReduceMin"),
    ((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), "MaxPool"),
    ((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), "GlobalAveragePool"),
    ((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), "AveragePool"),
    ((nn.LPPool1d, nn.LPPool2d, nn.LPPool3d), "LpPool"),
    ((nn.Flatten, nn.Unflatten, ops.Reshape, ops.Squeeze, ops.Unsqueeze), "Reshape"),
    ((ops.Permute, ops.Transpose, ops.Movedim, nn.ChannelShuffle, nn.PixelUnshuffle), "Transpose"),
    (ops.Concat, "Concat"), ((ops.Expand, ops.RepeatInterleave), "Expand"), (ops.Tile, "Tile"),
    ((ops.Slice, ops.Narrow, ops.Split, ops.Chunk, ops.Flip), "Slice"),
    ((ops.Select, ops.IndexSelect), "Gather"), (ops.TakeAlong, "GatherElements"), (nn.PixelShuffle, "DepthToSpace"),
    (ops.Cast, "Cast"), (ops.Assign, "ScatterND"), (nn.Fold, "Col2Im"),
    ((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
      ops.StochasticDepth), "Identity"),
    (nn.ReLU, "Relu"), ((nn.ReLU6, nn.Hardtanh), "Clip"),
    (nn.Sigmoid, "Sigmoid"), (nn.Tanh, "Tanh"), (nn.SiLU, "Swish"), (nn.Mish, "Mish"), (nn.Hardswish, "HardSwish"),
    (nn.Hardsigmoid, "HardSigmoid"), (nn.GELU, "Gelu"), ((nn.LeakyReLU, nn.RReLU), "LeakyRelu"),
    ((nn.PReLU, ops.PReLU), "PRelu"), (nn.ELU, "Elu"), (nn.CELU, "Celu"), (nn.SELU, "Selu"),
    (nn.Softplus, "Softplus"), (nn.Softsign, "Softsign"), (nn.Threshold, "ThresholdedRelu"),
    ((nn.Hardshrink, nn.Softshrink), "Shrink"),
    ((nn.Softmax, ops.Softmax, ops.MaskedSoftmax), "Softmax"), ((nn.LogSoftmax, ops.LogSoftmax), "LogSoftmax"),
    ((nn.LayerNorm, ops.LayerNorm), "LayerNormalization"), ((nn.RMSNorm, ops.RMSNorm), "RMSNormalization"),
    ((nn.GroupNorm, ops.GroupNorm), "GroupNormalization"),
    ((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, ops.InstanceNorm), "InstanceNormalization"),
    (nn.LocalResponseNorm, "LRN"), (ops.Normalize, "LpNormalization"), ((nn.Embedding, ops.Embedding), "Embedding"),
)  # fmt: skip

_RANGES: dict[type[nn.Module], tuple[float, float]] = {
    nn.ReLU: (0.0, math.inf), clips.ReLU: (0.0, math.inf), nn.Sigmoid: (0.0, 1.0), nn.Hardsigmoid: (0.0, 1.0),
    nn.Softmax: (0.0, 1.0), ops.Softmax: (0.0, 1.0), ops.MaskedSoftmax: (0.0, 1.0), nn.Tanh: (-1.0, 1.0),
    nn.Softplus: (0.0, math.inf),
}  # fmt: skip


def op_kind(module: nn.Module) -> str:
    """Return the ONNX operator that the module becomes, or its type's name where there is no single one."""
    match module:
        case ops.Interpolate() | nn.Upsample():
            return "Resize-nearest" if module.mode == "nearest" else "Resize-linear"
        case ops.Pad():
            return "Pad" if module.mode == "constant" and not module.value else f"Pad-{module.mode}"
        case nn.ConstantPad1d() | nn.ConstantPad2d() | nn.ConstantPad3d():
            return "Pad-constant" if module.value else "Pad"
        case ops.Slice() if _takes_one_position(module.index):
            return "Gather"
        case nn.AvgPool2d() | nn.AvgPool3d() if module.divisor_override:
            return "AveragePool-divisor"
        case ops.Unary():
            return module.function.capitalize()
        case nn.AdaptiveMaxPool1d() | nn.AdaptiveMaxPool2d() | nn.AdaptiveMaxPool3d():
            return "ReduceMax" if to_one(module.output_size) else "AdaptiveMaxPool"
    return next((name for types, name in _KINDS if isinstance(module, types)), type(module).__name__)


def _takes_one_position(index: Any) -> bool:
    """Say whether an index has a number in it, or is not known: it is not slices alone."""
    return index is None or any(isinstance(i, int) for i in (index if isinstance(index, tuple) else (index,)))


def to_one(size: Any) -> bool:
    """Say whether a pool of that output size pools over all positions."""
    return all(s == 1 for s in (size if isinstance(size, tuple | list) else (size,)))


def pad_widths(module: nn.Module) -> tuple[int, ...]:
    """Return the widths of a pad, those of the last dimension first; none of any other module, or if computed."""
    if isinstance(module, nn.ConstantPad1d | nn.ConstantPad2d | nn.ConstantPad3d):
        return tuple(module.padding)
    return module.pad if isinstance(module, ops.Pad) else ()


def takes_padding(layer: nn.Module, widths: tuple[int, ...]) -> bool:
    """Say whether zeros of these widths in front of a layer may be its own padding instead."""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or isinstance(layer.padding, str):
        return False
    fits = 0 < len(widths) <= 2 * len(layer.kernel_size) and min(widths) >= 0
    return fits and layer.padding_mode == "zeros"


def output_range(module: nn.Module) -> tuple[float, float] | None:
    """Return the least and greatest value that the module can give whatever its input; None if that depends on it."""
    last = getattr(module, "activation", None) if isinstance(module, Fused) else module
    if isinstance(last, nn.Hardtanh):
        return float(last.min_val), float(last.max_val)
    if isinstance(last, ops.Unary) and last.function in ("abs", "exp", "sqrt", "square"):
        return 0.0, math.inf
    found = _RANGES.get(type(last)) if last is not None else None
    return (-math.inf, math.inf) if found is None and isinstance(module, Fused) else found


def describe_quant(module: nn.Module) -> str:
    """Return how a module quantizes, for a dump: `w=s8/ch0` of a layer, the spec of a quantizer; lowered or not."""
    if isinstance(module, Quantizer):
        return str(module.spec)
    quantizer = module._modules.get("weight_quantizer")
    if isinstance(quantizer, Quantizer):
        return f"w={quantizer.spec}"
    own = module.__dict__
    weight, spec = own.get("weight_spec"), own.get("spec")
    return f"w={weight}" if isinstance(weight, QuantSpec) else str(spec) if isinstance(spec, QuantSpec) else ""
