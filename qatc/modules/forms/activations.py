"""Activations: functions, tensor methods, and both in place."""

import math
from typing import Any

import torch.nn.functional as F
from torch import nn

from qatc.modules import ops
from qatc.modules.forms.form import INPLACE, Form, names, plain


def _clamp(min: Any = None, max: Any = None) -> nn.Module | None:
    if min == 0 and max is None:
        return nn.ReLU()
    if min == 0 and max == 6:
        return nn.ReLU6()
    low, high = -math.inf if min is None else min, math.inf if max is None else max
    return nn.Hardtanh(low, high) if low < high else None


def _softmax(dim: Any, dtype: Any, _stacklevel: int = 3) -> nn.Module:
    return nn.Softmax(dim) if dtype is None else ops.Softmax(dim, dtype)


def _log_softmax(dim: Any, dtype: Any, _stacklevel: int = 3) -> nn.Module:
    return ops.LogSoftmax(dim, dtype)


def _softmin(dim: Any, dtype: Any, _stacklevel: int = 3) -> nn.Module | None:
    return nn.Softmin(dim) if dtype is None else None


def _hardtanh(min_val: float, max_val: float, inplace: bool) -> nn.Module | None:
    return nn.Hardtanh(min_val, max_val) if min_val < max_val else None


_SOFTMAX = {"dim": None, "_stacklevel": 3, "dtype": None}
_TORCH_SOFTMAX = {"dim": None, "dtype": None}
_PYTHON = (F.softmax, F.log_softmax)


def _of_torch(*wanted: str) -> tuple[Any, ...]:
    return tuple(target for target in names(*wanted) if target not in _PYTHON)


ACTIVATIONS: tuple[Form, ...] = (
    Form("relu", names("relu"), plain(nn.ReLU), INPLACE),
    Form("relu6", names("relu6"), plain(nn.ReLU6), INPLACE),
    Form("hardtanh", names("hardtanh"), _hardtanh, {"min_val": -1.0, "max_val": 1.0, **INPLACE}),
    Form("clamp", names("clamp", "clip"), _clamp, {"min": None, "max": None}),
    Form("clamp", names("clamp_min"), _clamp, {"min": None}),
    Form("clamp", names("clamp_max"), _clamp, {"max": None}),
    Form("sigmoid", names("sigmoid", "expit"), nn.Sigmoid),
    Form("tanh", names("tanh"), nn.Tanh),
    Form("silu", names("silu"), plain(nn.SiLU), INPLACE),
    Form("mish", names("mish"), plain(nn.Mish), INPLACE),
    Form("hardswish", names("hardswish"), plain(nn.Hardswish), INPLACE),
    Form("hardsigmoid", names("hardsigmoid"), plain(nn.Hardsigmoid), INPLACE),
    Form("leaky_relu", names("leaky_relu"), plain(nn.LeakyReLU), {"negative_slope": 0.01, **INPLACE}),
    Form("prelu", names("prelu"), plain(ops.PReLU), {"weight": None}, computed=frozenset({"weight"})),
    # `training` is what the flag was when the model was traced; the module follows train() and eval() again.
    Form("rrelu", names("rrelu"), plain(nn.RReLU, "training"),
         {"lower": 1.0 / 8, "upper": 1.0 / 3, "training": False, **INPLACE}),
    Form("elu", names("elu"), plain(nn.ELU), {"alpha": 1.0, **INPLACE}),
    Form("celu", names("celu"), plain(nn.CELU), {"alpha": 1.0, **INPLACE}),
    Form("selu", names("selu"), plain(nn.SELU), INPLACE),
    Form("gelu", names("gelu"), nn.GELU, {"approximate": "none"}),
    Form("glu", names("glu"), nn.GLU, {"dim": -1}),
    Form("hardshrink", names("hardshrink"), nn.Hardshrink, {"lambd": 0.5}),
    Form("softshrink", names("softshrink"), nn.Softshrink, {"lambd": 0.5}),
    Form("tanhshrink", names("tanhshrink"), nn.Tanhshrink),
    Form("softplus", names("softplus"), nn.Softplus, {"beta": 1.0, "threshold": 20.0}),
    Form("softsign", names("softsign"), nn.Softsign),
    Form("logsigmoid", names("logsigmoid", "log_sigmoid"), nn.LogSigmoid),
    Form("threshold", names("threshold"), plain(nn.Threshold), {"threshold": 0.0, "value": 0.0, **INPLACE}),
    Form("softmax", (F.softmax,), _softmax, _SOFTMAX),
    Form("softmax", _of_torch("softmax"), _softmax, _TORCH_SOFTMAX),
    Form("log_softmax", (F.log_softmax,), _log_softmax, _SOFTMAX),
    Form("log_softmax", _of_torch("log_softmax"), _log_softmax, _TORCH_SOFTMAX),
    Form("softmin", (F.softmin,), _softmin, _SOFTMAX),
)  # fmt: skip
