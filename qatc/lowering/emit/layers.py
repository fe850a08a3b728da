"""Layers with weights, and quantizers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from qatc.ir import TensorType
from qatc.lowering.emit.builder import (
    Builder,
    DeclinedError,
    Form,
    Function,
    Input,
    Value,
    dtype_of,
    known,
    shape_of,
    typed,
)
from qatc.lowering.emit.narrow import set_narrow
from qatc.lowering.emit.parts import END, sliced
from qatc.lowering.emit.pools import batched
from qatc.lowering.emit.resizes import padded
from qatc.lowering.emit.shapes import transposed
from qatc.lowering.lowered_modules import (
    FloatLayer,
    FloatMultiplyAdd,
    Guarded,
    LoweredBatchNorm,
    LoweredLayer,
    LoweredQuantizer,
    LoweredSubPixel,
    PaddedCodes,
    ReadsApart,
)
from qatc.lowering.sub_pixel import SubPixel
from qatc.modules.fused import FusedConv1d, FusedConv2d, FusedConv3d, FusedLinear
from qatc.modules.layer_forms import LAYER_FORMS, LayerForm
from qatc.modules.transposed import FusedConvTranspose1d, FusedConvTranspose2d, FusedConvTranspose3d


def _convolution(b: Builder, m: Any, x: Value, weight: Value, bias: Value | None, output_size: Any = None) -> Value:
    rank = len(m.stride)
    widths = [0] * (2 * rank) if m.padding == "valid" else m._reversed_padding_repeated_twice
    if m.padding_mode != "zeros":
        x, widths = padded(b, x, widths, m.padding_mode), [0] * (2 * rank)
    return convolved(b, x, weight, bias, m.stride, [*widths[-2::-2], *widths[::-2]], m.dilation, m.groups)


def convolved(
    b: Builder, x: Value, weight: Value, bias: Value | None,
    strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int], groups: int,
) -> Value:  # fmt: skip
    """Return a convolution; `pads` are those in front of each dimension, then those behind."""
    described: dict[str, Any] = {"strides": list(strides), "pads": list(pads), "dilations": list(dilations)}
    described |= {"group": groups, "kernel_shape": list(shape_of(weight)[2:])}
    inputs = (weight, *_unless_none(bias))
    return batched(b, x, len(strides), lambda x: b.op("Conv", x, *inputs, **described))


def _unless_none(bias: Value | None) -> tuple[Value, ...]:
    return () if bias is None else (bias,)


def _transposed(b: Builder, m: Any, x: Value, weight: Value, bias: Value | None, output_size: Any = None) -> Value:
    rank = len(m.stride)
    extra = list(m.output_padding)
    if output_size is not None:
        before, after = shape_of(x)[-rank:], b.gives.shape[-rank:]
        described = zip(before, after, m.kernel_size, m.stride, m.padding, m.dilation, strict=True)
        extra = [_extra(*one) for one in described]
    attributes = {
        "strides": list(m.stride), "pads": [*m.padding, *m.padding], "dilations": list(m.dilation),
        "group": m.groups, "output_padding": extra, "kernel_shape": list(m.kernel_size),
    }  # fmt: skip
    return batched(b, x, rank, lambda x: b.op("ConvTranspose", x, weight, *_unless_none(bias), **attributes))


def _extra(before: int | None, after: int | None, kernel: int, stride: int, padding: int, dilation: int) -> int:
    if before is None or after is None:
        raise DeclinedError
    return after - ((before - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)


def _linear(b: Builder, m: Any, x: Value, weight: Value, bias: Value | None, output_size: Any = None) -> Value:
    if len(shape_of(x)) == 2:
        return b.op("Gemm", x, weight, *_unless_none(bias), transB=1)
    if weight.const_value is not None:
        turned: Input = np.ascontiguousarray(weight.const_value.numpy().T)
    else:
        turned = b.op("Transpose", weight, perm=[1, 0])
    y = b.op("MatMul", x, turned)
    return y if bias is None else b.op("Add", y, bias)


# What each torch layer, and each fused form of it, computes with a weight and a bias.
_COMPUTE: Mapping[type[nn.Module], Callable[..., Value]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d, FusedConv1d, FusedConv2d, FusedConv3d), _convolution),
    **dict.fromkeys(
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, FusedConvTranspose1d, FusedConvTranspose2d,
         FusedConvTranspose3d), _transposed,
    ),
    **dict.fromkeys((nn.Linear, FusedLinear), _linear),
}  # fmt: skip


def _compute(b: Builder, m: Any, *given: Any) -> Value:
    return _COMPUTE[type(m)](b, m, *given)


def _layer(b: Builder, m: Any, x: Value, output_size: Any = None) -> Value:
    return _compute(b, m, x, b.own(m, "weight"), b.own(m, "bias"), output_size)


def _function(form: LayerForm) -> Function:
    """Return the form of a function that computes what a layer does, with a weight that the network computes."""

    def write(b: Builder, *args: Any, **named: Any) -> Value:
        given = {**form.arguments, **dict(zip(form.arguments, args, strict=False)), **named}
        if len(args) > len(form.arguments) or len(given) > len(form.arguments):
            raise DeclinedError
        x, weight, bias = (given.pop(str(name)) for name in (form.x, form.weight, form.bias))
        shape = shape_of(weight)
        layer = None if None in shape else form.build(shape, **given)
        if layer is None:
            raise DeclinedError
        return _compute(b, layer, x, weight, bias)

    return write


LAYER_FUNCTIONS: Mapping[Any, Function] = {
    target: _function(form) for form in LAYER_FORMS for target in form.targets if form.strict
}


def _deployed(b: Builder, m: LoweredLayer) -> tuple[Value, Value | None]:
    """Return weight and bias from their codes."""
    return _weight(b, m), _dequantized(b, m, "bias", b.own(m, "bias_codes"), 0) if m.int32_bias else b.own(m, "bias")


def _lowered_layer(b: Builder, m: LoweredLayer, x: Value, output_size: Any = None) -> Value:
    return _activated(b, m, _compute(b, m.layer[0], x, *_deployed(b, m), output_size))


def _weight(b: Builder, m: LoweredLayer) -> Value:
    """Return the weight from its codes, themselves made from a float constant where the file is to have that."""
    zero_point = b.own(m, "weight_zero_point")
    given = b.own(m, "weight" if m.float_weight else "weight_codes")
    assert given is not None
    codes = given
    if m.float_weight:
        made = b.op(
            "QuantizeLinear", given, b.own(m, "weight_scale"), zero_point, axis=m.axis, dtype=m.weight_zero_point.dtype
        )
        codes = typed(made, given)
    if m.native:
        set_narrow(m.bits, codes, zero_point)
    if m.clipped:
        codes = typed(b.op("Clip", codes, b.own(m, "weight_low"), b.own(m, "weight_high")), codes)
    return _dequantized(b, m, "weight", codes, m.axis)


def _dequantized(b: Builder, m: LoweredLayer, name: str, codes: Value | None, axis: int) -> Value:
    scale, zero_point = (b.own(m, f"{name}_{part}") for part in ("scale", "zero_point"))
    assert codes is not None
    return typed(b.op("DequantizeLinear", codes, scale, zero_point, axis=axis, dtype=torch.float32), codes)


def _activated(b: Builder, m: LoweredLayer | FloatLayer, y: Value) -> Value:
    return y if m.activation is None else b.call(m.activation, typed(y, b.gives))


def _lowered_batch_norm(b: Builder, m: LoweredBatchNorm, x: Value) -> Value:
    if m.rank == 2:  # [N, C] as of one position
        x = typed(b.op("Unsqueeze", x, [-1]), TensorType(dtype_of(x), (*shape_of(x), 1)))
    places = len(shape_of(x)) - 2
    pads = [m.border] * (2 * places)
    y = convolved(b, x, *_deployed(b, m), [1] * places, pads, [1] * places, m.channels)
    return _activated(b, m, b.op("Squeeze", y, [-1]) if m.rank == 2 else y)


def _sub_pixel(b: Builder, m: LoweredSubPixel, x: Value, output_size: Any = None) -> Value:
    """Write the convolution that gives phases; their size is in its padding."""
    axes = m.form.axes
    pads = [axis.padding[side] for side in (0, 1) for axis in axes]
    dilations = [axis.dilation for axis in axes]
    return _activated(b, m, convolved(b, x, *_deployed(b, m), [1] * len(axes), pads, dilations, m.form.groups))


def _joined(b: Builder, form: SubPixel, x: Value) -> Value:
    """Return phases [N, out * phases, ...] side by side, [N, out, ...]."""
    rank, strides = len(form.axes), [axis.stride for axis in form.axes]
    batch, _, *places = shape_of(x)
    sizes = [None if n is None else s * n for s, n in zip(strides, places, strict=True)]
    made = (batch, known(x, 1) // form.phases, *sizes)
    if strides == [strides[0], strides[0]] and form.phases > 1:
        # One node, and twice as fast in ONNX Runtime.
        x = typed(b.op("DepthToSpace", x, blocksize=strides[0], mode="CRD"), TensorType(dtype_of(x), made))
    elif form.phases > 1:
        pairs = [d for i in range(rank) for d in (2 + rank + i, 2 + i)]
        apart = b.reshape(x, (batch, made[1], *strides, *places))
        x = b.reshape(transposed(b, apart, (0, 1, *pairs)), made)
    crops = {d: axis.crop for d, axis in enumerate(form.axes, start=2) if any(axis.crop)}
    return sliced(b, x, {d: (front, -back or END, 1) for d, (front, back) in crops.items()})


def _float_layer(b: Builder, m: FloatLayer, x: Value, output_size: Any = None) -> Value:
    y = _compute(b, m.layer[0], x, b.own(m, "weight"), b.own(m, "bias"), output_size)
    return _activated(b, m, _unchanged(b, y) if m.guarded else y)


def _multiply_add(b: Builder, m: FloatMultiplyAdd, x: Value) -> Value:
    return _activated(b, m, b.op("Add", b.op("Mul", x, b.own(m, "weight")), b.own(m, "bias")))


def _guarded(b: Builder, m: Guarded, *given: Any, **sizes: Any) -> Value:
    return _unchanged(b, b.call(m.op, *given, **sizes))


def _reads_apart(b: Builder, m: ReadsApart, x: Value, *given: Any, **sizes: Any) -> Value:
    return b.call(m.op, typed(_unchanged(b, x), x), *given, **sizes)


def _unchanged(b: Builder, y: Value) -> Value:
    """Return y behind an op that changes nothing, and that no optimizer removes."""
    return b.op("LeakyRelu", y, alpha=1.0)


def _quantizer(b: Builder, m: LoweredQuantizer, x: Value, pad: Any = None) -> Value:
    scale, zero_point = b.own(m, "scale"), b.own(m, "zero_point")
    if m.limits is not None:
        x = typed(b.op("Clip", x, *m.limits), x)
    codes = typed(b.op("QuantizeLinear", x, scale, zero_point, dtype=m.zero_point.dtype), x)
    if m.native:
        set_narrow(m.bits, codes, zero_point)
    if m.clip_codes:
        codes = typed(b.op("Clip", codes, b.own(m, "low"), b.own(m, "high")), x)
    match m.arrange:
        case SubPixel():
            codes = _joined(b, m.arrange, codes)
        case PaddedCodes():
            codes = padded(b, codes, m.arrange.widths if pad is None else pad, "constant", m.arrange.zero)
    return b.op("DequantizeLinear", codes, scale, zero_point, axis=1, dtype=torch.float32)


LAYERS: Mapping[type[nn.Module], Form] = {
    LoweredQuantizer: _quantizer, LoweredLayer: _lowered_layer, LoweredBatchNorm: _lowered_batch_norm,
    LoweredSubPixel: _sub_pixel,
    FloatLayer: _float_layer, FloatMultiplyAdd: _multiply_add, Guarded: _guarded, ReadsApart: _reads_apart,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
                     nn.Linear), _layer),
}  # fmt: skip
