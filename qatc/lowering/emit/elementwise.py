"""Arithmetic and activations, value by value."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from qatc.lowering.emit.builder import Builder, DeclinedError, Form, Size, Value, dtype_of, shape_of
from qatc.modules import ops


def _operands(b: Builder, *given: Any) -> list[Any]:
    """Return tensors and sizes in the element type of the result, as torch promotes them; numbers take it anyway."""
    dtype = b.gives.dtype
    if dtype == torch.bool or not all(isinstance(x, Value | Size | int | float) for x in given):
        raise DeclinedError
    values = (b.number(x, dtype) if isinstance(x, Size) else x for x in given)
    return [b.cast(x, dtype) if isinstance(x, Value) else x for x in values]


def _binary(kind: str) -> Form:
    def write(b: Builder, m: nn.Module, x: Any, y: Any) -> Value:
        return b.op(kind, *_operands(b, x, y))

    return write


def _commutative(kind: str) -> Form:
    def write(b: Builder, m: nn.Module, x: Any, y: Any) -> Value:
        x, y = _operands(b, x, y)
        return b.op(kind, x, y) if isinstance(x, Value) else b.op(kind, y, x)

    return write


def _divide(b: Builder, m: ops.Div, x: Any, y: Any) -> Value:
    x, y = _operands(b, x, y)
    if isinstance(x, Value):
        return b.op("Div", x, y)
    return b.op("Mul", b.op("Reciprocal", y), x)  # as torch computes it


def _floats(b: Builder, x: Value) -> Value:
    """Return x, in the type of the result where torch computes floats from integers."""
    return b.cast(x, b.gives.dtype)


UNARY: Mapping[str, Callable[[Builder, Value], Value]] = {
    "abs": lambda b, x: b.op("Abs", x),
    "cos": lambda b, x: b.op("Cos", _floats(b, x)),
    "erf": lambda b, x: b.op("Erf", _floats(b, x)),
    "exp": lambda b, x: b.op("Exp", _floats(b, x)),
    "expm1": lambda b, x: b.op("Sub", b.op("Exp", _floats(b, x)), 1.0),
    "log": lambda b, x: b.op("Log", _floats(b, x)),
    "log1p": lambda b, x: b.op("Log", b.op("Add", _floats(b, x), 1.0)),
    "neg": lambda b, x: b.op("Neg", x),
    "reciprocal": lambda b, x: b.op("Reciprocal", _floats(b, x)),
    "rsqrt": lambda b, x: b.op("Reciprocal", b.op("Sqrt", _floats(b, x))),
    "sin": lambda b, x: b.op("Sin", _floats(b, x)),
    "sqrt": lambda b, x: b.op("Sqrt", _floats(b, x)),
    "square": lambda b, x: b.op("Pow", x, 2),
}


def _unary(b: Builder, m: ops.Unary, x: Value) -> Value:
    return UNARY[m.function](b, x)


def _activation(write: Callable[..., Value]) -> Form:
    """Return a form of floats only: of integers, runtimes have few of these operators."""

    def checked(b: Builder, m: nn.Module, x: Value) -> Value:
        if not dtype_of(x).is_floating_point:
            raise DeclinedError
        return write(b, m, x)

    return checked


def one(kind: str, **attributes: float) -> Form:
    """Return the form of an activation that is one operator."""
    return _activation(lambda b, m, x: b.op(kind, x, **attributes))


def _clip(b: Builder, m: nn.Hardtanh, x: Value) -> Value:
    ends = (None if math.isinf(end) else end for end in (m.min_val, m.max_val))
    return b.op("Clip", b.cast(x, b.gives.dtype), *ends)


def _gelu(b: Builder, m: nn.GELU, x: Value) -> Value:
    if m.approximate == "tanh":
        cubed = b.op("Mul", 0.044715, b.op("Pow", x, 3.0))
        inner = b.op("Tanh", b.op("Mul", math.sqrt(2 / math.pi), b.op("Add", x, cubed)))
    else:
        inner = b.op("Erf", b.op("Div", x, math.sqrt(2)))
    return b.op("Mul", x, b.op("Mul", 0.5, b.op("Add", inner, 1.0)))


def _softplus(b: Builder, m: nn.Softplus, x: Value) -> Value:
    scaled = x if m.beta == 1 else b.op("Mul", x, m.beta)
    y = b.op("Softplus", scaled)
    y = y if m.beta == 1 else b.op("Div", y, m.beta)
    if m.threshold >= _SOFTPLUS_IS_LINEAR and dtype_of(x) == torch.float32:
        return y
    return b.where(b.compare("Greater", scaled, m.threshold), x, y)


_SOFTPLUS_IS_LINEAR = 20.0  # log(1 + exp(x)) is x in float32 from 16.6 on


def _threshold(b: Builder, m: nn.Threshold, x: Value) -> Value:
    if m.value == 0:
        return b.op("ThresholdedRelu", x, alpha=float(m.threshold))
    return b.where(b.compare("LessOrEqual", x, m.threshold), m.value, x)


def _glu(b: Builder, m: nn.GLU, x: Value) -> Value:
    first, second = b.ops("Split", 2, x, axis=m.dim, num_outputs=2)
    return b.op("Mul", first, b.op("Sigmoid", second))


def _prelu(b: Builder, m: nn.PReLU | ops.PReLU, x: Value, weight: Value | None = None) -> Value:
    slope = b.own(m, "weight") if weight is None else weight
    assert slope is not None
    return b.op("PRelu", x, b.reshape(slope, (1, *shape_of(slope), *[1] * (len(shape_of(x)) - 2))))


ELEMENTWISE: Mapping[type[nn.Module], Form] = {
    ops.Add: _commutative("Add"), ops.Sub: _binary("Sub"), ops.Mul: _commutative("Mul"), ops.Div: _divide,
    ops.Pow: _binary("Pow"), ops.Maximum: _binary("Max"), ops.Minimum: _binary("Min"), ops.MatMul: _binary("MatMul"),
    ops.Unary: _unary, nn.ReLU: one("Relu"), nn.ReLU6: _clip, nn.Hardtanh: _clip,
    nn.Sigmoid: one("Sigmoid"), nn.Tanh: one("Tanh"), nn.Mish: one("Mish"), nn.Hardswish: one("HardSwish"),
    nn.Hardsigmoid: one("HardSigmoid", alpha=1 / 6, beta=0.5),
    nn.SiLU: _activation(lambda b, m, x: b.op("Mul", x, b.op("Sigmoid", x))),
    nn.LeakyReLU: _activation(lambda b, m, x: b.op("LeakyRelu", x, alpha=m.negative_slope)),
    nn.ELU: _activation(lambda b, m, x: b.op("Elu", x, alpha=m.alpha)),
    nn.CELU: _activation(lambda b, m, x: b.op("Celu", x, alpha=m.alpha)),
    nn.SELU: one("Selu"), nn.Softsign: one("Softsign"), nn.Softplus: _activation(_softplus),
    nn.LogSigmoid: _activation(lambda b, m, x: b.op("Neg", b.op("Softplus", b.op("Neg", x)))),
    nn.Tanhshrink: _activation(lambda b, m, x: b.op("Sub", x, b.op("Tanh", x))),
    nn.Hardshrink: _activation(lambda b, m, x: b.op("Shrink", x, lambd=m.lambd)),
    nn.Softshrink: _activation(lambda b, m, x: b.op("Shrink", x, bias=m.lambd, lambd=m.lambd)),
    nn.Threshold: _activation(_threshold), nn.GELU: _activation(_gelu), nn.GLU: _activation(_glu),
    nn.PReLU: _prelu, ops.PReLU: _prelu,
}  # fmt: skip
