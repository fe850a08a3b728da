"""Which function, operator or tensor method becomes which module: a table, read by the pass functional-to-module."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from qatc.modules import ops


@dataclass(frozen=True)
class Form:
    """One module form: the calls it stands for, their parameters, and how to build it.

    The first `tensors` arguments stay arguments of the module; `parameters` (name to default, in the call's order)
    become attributes (`variadic`: the one parameter may be spread over several arguments). `build` returns None where
    the module cannot express the values given. Parameters named in `computed` may be values of the graph; they then
    stay keyword arguments.
    """

    name: str
    targets: tuple[Any, ...]
    build: Callable[..., nn.Module | None]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tensors: int = 1
    computed: frozenset[str] = frozenset()
    variadic: bool = False


def _clamp(min: Any = None, max: Any = None) -> nn.Module | None:
    if min == 0 and max is None:
        return nn.ReLU()
    if min == 0 and max == 6:
        return nn.ReLU6()
    return None if min is None or max is None or min >= max else nn.Hardtanh(min, max)


def _pool(kind: type[nn.Module]) -> Callable[..., nn.Module | None]:
    def build(**given: Any) -> nn.Module | None:
        return kind(**given) if not given.get("return_indices") else None

    return build


def _only(kind: type[nn.Module], **neutral: Any) -> Callable[..., nn.Module | None]:
    """Build `kind` without the parameters in `neutral`, if they have those values."""

    def build(**given: Any) -> nn.Module | None:
        rest = {k: v for k, v in given.items() if k not in neutral}
        return kind(**rest) if all(given.get(k, v) == v for k, v in neutral.items()) else None

    return build


def _dropout(kind: type[nn.Module]) -> Callable[..., nn.Module | None]:
    # `training` is what the flag was when the model was traced; the module follows train() and eval() again.
    def build(p: float = 0.5, training: bool = True, inplace: bool = False) -> nn.Module:
        return kind(p)

    return build


def _flatten(start_dim: int = 0, end_dim: int = -1) -> nn.Module:
    return nn.Flatten(start_dim, end_dim)


def _reshape(shape: Any = None) -> nn.Module | None:
    return None if isinstance(shape, torch.dtype) else ops.Reshape(shape)  # x.view(dtype) reads the bits otherwise


_POOL = {"kernel_size": None, "stride": None, "padding": 0}
_MAX = {**_POOL, "dilation": 1, "ceil_mode": False, "return_indices": False}
_AVG = {**_POOL, "ceil_mode": False, "count_include_pad": True}
_INPLACE = {"inplace": False}
_RESIZE = {
    "size": None, "scale_factor": None, "mode": "nearest", "align_corners": None, "recompute_scale_factor": None,
    "antialias": False,
}  # fmt: skip


def _names(*names: str) -> tuple[Any, ...]:
    """Return every callable of these names in torch and torch.nn.functional, the tensor methods, and both in place."""
    found: list[Any] = []
    for name in names:
        for variant in (name, name + "_"):
            holders = (torch, F, torch._C._nn, torch.special)
            found += [getattr(h, variant) for h in holders if hasattr(h, variant)]
            if hasattr(torch.Tensor, variant):
                found.append(variant)
    return tuple(dict.fromkeys(found))


FORMS: tuple[Form, ...] = (
    Form("relu", _names("relu"), lambda inplace: nn.ReLU(), _INPLACE),
    Form("relu6", _names("relu6"), lambda inplace: nn.ReLU6(), _INPLACE),
    Form("hardtanh", _names("hardtanh"), lambda min_val, max_val, inplace: nn.Hardtanh(min_val, max_val),
         {"min_val": -1.0, "max_val": 1.0, **_INPLACE}),
    Form("clamp", _names("clamp", "clip"), _clamp, {"min": None, "max": None}),
    Form("sigmoid", _names("sigmoid", "expit"), nn.Sigmoid),
    Form("tanh", _names("tanh"), nn.Tanh),
    Form("silu", _names("silu"), lambda inplace: nn.SiLU(), _INPLACE),
    Form("hardswish", _names("hardswish"), lambda inplace: nn.Hardswish(), _INPLACE),
    Form("hardsigmoid", _names("hardsigmoid"), lambda inplace: nn.Hardsigmoid(), _INPLACE),
    Form("leaky_relu", _names("leaky_relu"), lambda negative_slope, inplace: nn.LeakyReLU(negative_slope),
         {"negative_slope": 0.01, **_INPLACE}),
    Form("elu", _names("elu"), lambda alpha, inplace: nn.ELU(alpha), {"alpha": 1.0, **_INPLACE}),
    Form("gelu", _names("gelu"), lambda approximate: nn.GELU(approximate), {"approximate": "none"}),
    Form("softmax", _names("softmax"), _only(nn.Softmax, dtype=None, _stacklevel=3),
         {"dim": None, "_stacklevel": 3, "dtype": None}),
    Form("add", (*_names("add"), operator.add, operator.iadd), _only(ops.Add, alpha=1), {"alpha": 1}, tensors=2),
    Form("sub", (*_names("sub", "subtract"), operator.sub, operator.isub), _only(ops.Sub, alpha=1), {"alpha": 1},
         tensors=2),
    Form("mul", (*_names("mul", "multiply"), operator.mul, operator.imul), ops.Mul, tensors=2),
    Form("div", (*_names("div", "divide", "true_divide"), operator.truediv, operator.itruediv),
         _only(ops.Div, rounding_mode=None), {"rounding_mode": None}, tensors=2),
    Form("matmul", (*_names("matmul", "bmm"), operator.matmul), ops.MatMul, tensors=2),
    Form("concat", _names("cat", "concat", "concatenate"), ops.Concat, {"dim": 0}),
    Form("mean", _names("mean"), _only(ops.Mean, dtype=None), {"dim": None, "keepdim": False, "dtype": None}),
    Form("flatten", _names("flatten"), _flatten, {"start_dim": 0, "end_dim": -1}),
    Form("reshape", _names("reshape", "view"), _reshape, {"shape": None}, computed=frozenset({"shape"}), variadic=True),
    Form("permute", _names("permute"), ops.Permute, {"dims": ()}, variadic=True),
    Form("transpose", _names("transpose", "swapaxes", "swapdims"), ops.Transpose, {"dim0": 0, "dim1": 1}),
    Form("squeeze", _names("squeeze"), ops.Squeeze, {"dim": None}),
    Form("unsqueeze", _names("unsqueeze"), ops.Unsqueeze, {"dim": 0}),
    Form("max_pool1d", _names("max_pool1d", "_max_pool1d"), _pool(nn.MaxPool1d), _MAX),
    Form("max_pool2d", _names("max_pool2d", "_max_pool2d"), _pool(nn.MaxPool2d), _MAX),
    Form("max_pool3d", _names("max_pool3d", "_max_pool3d"), _pool(nn.MaxPool3d), _MAX),
    Form("avg_pool1d", _names("avg_pool1d"), nn.AvgPool1d, _AVG),
    Form("avg_pool2d", _names("avg_pool2d"), nn.AvgPool2d, {**_AVG, "divisor_override": None}),
    Form("avg_pool3d", _names("avg_pool3d"), nn.AvgPool3d, {**_AVG, "divisor_override": None}),
    Form("adaptive_avg_pool1d", _names("adaptive_avg_pool1d"), nn.AdaptiveAvgPool1d, {"output_size": None}),
    Form("adaptive_avg_pool2d", _names("adaptive_avg_pool2d"), nn.AdaptiveAvgPool2d, {"output_size": None}),
    Form("adaptive_avg_pool3d", _names("adaptive_avg_pool3d"), nn.AdaptiveAvgPool3d, {"output_size": None}),
    Form("interpolate", (F.interpolate,), ops.Interpolate, _RESIZE, computed=frozenset({"size"})),
    Form("dropout", (F.dropout, torch.dropout), _dropout(nn.Dropout), {"p": 0.5, "training": True, **_INPLACE}),
    Form("dropout2d", (F.dropout2d,), _dropout(nn.Dropout2d), {"p": 0.5, "training": True, **_INPLACE}),
    Form("alpha_dropout", (F.alpha_dropout,), _dropout(nn.AlphaDropout), {"p": 0.5, "training": True, **_INPLACE}),
)  # fmt: skip
