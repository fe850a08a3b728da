"""The few operators that the exporter must not take apart, each with the ONNX node that it becomes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18 as onnx
from torch import Tensor


@torch.library.custom_op("qatc::quantize", mutates_args=())
def quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return codes of the zero point's type (int8 or uint8); one scale for the tensor."""
    limits = torch.iinfo(zero_point.dtype)
    return (torch.round(x / scale) + zero_point).clamp(limits.min, limits.max).to(zero_point.dtype)


@quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=zero_point.dtype)


@torch.library.custom_op("qatc::dequantize", mutates_args=())
def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Return the real values of codes; scales are 0-d, or 1-d along `axis`."""
    shape = [-1 if d == axis else 1 for d in range(codes.dim())] if scale.dim() else []
    return (codes - zero_point.to(torch.float32).reshape(shape)) * scale.reshape(shape)


@dequantize.register_fake
def _(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(codes, dtype=scale.dtype)


@torch.library.custom_op("qatc::clip_codes", mutates_args=())
def clip_codes(codes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return codes limited to fewer bits than their type has."""
    return codes.clamp(low, high)


@clip_codes.register_fake
def _(codes: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.empty_like(codes)


@torch.library.custom_op("qatc::global_average_pool", mutates_args=())
def global_average_pool(x: Tensor) -> Tensor:
    """Return the mean over all positions, [N, C, 1, ...]."""
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


@global_average_pool.register_fake
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:2], *[1] * (x.dim() - 2)))


def _quantize(x: Any, scale: Any, zero_point: Any) -> Any:
    return onnx.QuantizeLinear(x, scale, zero_point)


def _dequantize(codes: Any, scale: Any, zero_point: Any, axis: int) -> Any:
    return onnx.DequantizeLinear(codes, scale, zero_point, axis=axis)


def _clip_codes(codes: Any, low: Any, high: Any) -> Any:
    return onnx.Clip(codes, low, high)


def _global_average_pool(x: Any) -> Any:
    return onnx.GlobalAveragePool(x)


def _conv3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Any:
    # The exporter's own gives a convolution without a bias one of two dimensions (onnxscript 0.7).
    strides, pads, dilations = (list(given) * (3 // len(given)) for given in (stride, padding, dilation))
    inputs = (x, weight) if bias is None else (x, weight, bias)
    return onnx.Conv(*inputs, strides=strides, pads=[*pads, *pads], dilations=dilations, group=groups)


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.conv3d.default: _conv3d,
    torch.ops.qatc.quantize.default: _quantize,
    torch.ops.qatc.dequantize.default: _dequantize,
    torch.ops.qatc.clip_codes.default: _clip_codes,
    torch.ops.qatc.global_average_pool.default: _global_average_pool,
}
