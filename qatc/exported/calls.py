"""The public function for each op of ATen that a .pt2 file calls, with the op's arguments.

Most ops are a function or a tensor's method of the same name and arguments; the others are in the tables here, by the
schemas of torch's native_functions.yaml. Nothing else is called: a name is looked up among those that loading a
checkpoint allows.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qatc.checkpoint.names import Allowed, known_function
from qatc.errors import CheckpointError

Call = Callable[..., Any]

# The greatest number that a slice ends at, which stands for its end.
_END = 2**63 - 1


def first_of(op: str) -> Call | None:
    """Return what gives only the first of the results of an op that has several (`aten.native_layer_norm.default`)."""
    return _FIRST.get(op.split(".")[1]) if op.startswith("aten.") else None


def function_of(op: str) -> Call | None:
    """Return what to call for an op (`aten.conv2d.default`), or None."""
    namespace, _, rest = op.partition(".")
    name = rest.partition(".")[0]
    if namespace == "aten":
        return _OVERLOADS.get(op.removeprefix("aten.")) or _CALLS.get(name) or _public(name)
    if namespace == "torch" and rest in _SYMBOLIC:
        return getattr(torch, rest)  # type: ignore[no-any-return]
    if namespace in ("_operator", "math"):
        try:
            return Allowed().function(op.removeprefix("_"))
        except CheckpointError:
            return None
    return None


_SYMBOLIC = frozenset({"sym_float", "sym_int", "sym_max", "sym_min", "sym_not", "sym_ite", "sym_sum", "sym_sqrt"})


def _public(name: str) -> Call | None:
    for prefix, holder in (("linalg_", torch.linalg), ("special_", torch.special), ("fft_", torch.fft)):
        if name.startswith(prefix):
            return _known(getattr(holder, name.removeprefix(prefix), None))
    if found := _known(getattr(torch, name, None)) or _known(getattr(torch._C._nn, name, None)):
        return found
    try:
        return getattr(Tensor, Allowed().method(name))  # type: ignore[no-any-return]
    except CheckpointError:
        return None


def _known(function: Any) -> Call | None:
    return function if known_function(function) else None


def _same(x: Any, *_: Any, **__: Any) -> Any:
    return x


def _group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Tensor:
    return F.group_norm(x, groups, weight, bias, eps)


def _layer_norm(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Tensor:
    return F.layer_norm(x, shape, weight, bias, eps)


def _instance_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, use_input: bool, momentum: float, eps: float, *_: Any
) -> Tensor:
    return F.instance_norm(x, mean, var, weight, bias, use_input, momentum, eps)


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float, *_: Any
) -> Tensor:
    # One that was exported in train mode deploys with its running statistics, as in eval mode.
    return F.batch_norm(x, mean, var, weight, bias, mean is None, momentum, eps)


def _batch_norm_of_eval(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float, *_: Any
) -> Tensor:
    return F.batch_norm(x, mean, var, weight, bias, False, momentum, eps)


def _embedding(weight: Tensor, indices: Tensor, padding_idx: int = -1, *_: Any) -> Tensor:
    return F.embedding(indices, weight, None if padding_idx < 0 else padding_idx)


def _dropout(x: Tensor, p: float, train: bool) -> Tensor:
    # The flag is what it was at the export; the passes make modules of these that follow train() and eval().
    return F.dropout(x, p, False)


def _feature_dropout(x: Tensor, p: float, train: bool) -> Tensor:
    by_rank: Mapping[int, Call] = {3: F.dropout1d, 4: F.dropout2d, 5: F.dropout3d}
    made: Tensor = by_rank.get(x.dim(), F.dropout)(x, p, False)
    return made


def _rsub(x: Tensor, other: Any, alpha: Any = 1) -> Tensor:
    reversed_: Tensor = other - (x if alpha == 1 else x * alpha)
    return reversed_


def _slice(x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
    if start in (None, 0) and (end is None or (type(end) is int and end >= _END)) and step == 1:
        return x
    end = None if type(end) is int and end >= _END else end
    return x[(*[slice(None)] * (dim % x.dim()), slice(start, end, None if step == 1 else step))]


def _index(x: Tensor, indices: Any) -> Tensor:
    return x[tuple(slice(None) if index is None else index for index in indices)]


def _resize(mode: str, aligns: bool, antialias: bool = False) -> Call:
    """Return the call for an overload of sizes or factors: `upsample_bilinear2d.vec`."""

    def call(x: Tensor, size: Any, *rest: Any) -> Tensor:
        aligned = {"align_corners": rest[0], "antialias": antialias} if aligns else {}
        factors = rest[-1] if len(rest) > int(aligns) else None
        return F.interpolate(x, size, factors, mode, **aligned)

    return call


def _resize_to(mode: str, aligns: bool, antialias: bool = False) -> Call:
    """Return the call for an overload of sizes with hints of factors: `upsample_bilinear2d.default`."""

    def call(x: Tensor, size: Any, *rest: Any) -> Tensor:
        aligned = {"align_corners": rest[0], "antialias": antialias} if aligns else {}
        return F.interpolate(x, size, mode=mode, **aligned)

    return call


def _to(x: Tensor, *args: Any, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    wanted = next((a for a in args if isinstance(a, torch.dtype)), dtype)
    return x if wanted is None else x.to(wanted)


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    return torch.softmax(x, dim, torch.float32 if half_to_float else None)


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    return torch.log_softmax(x, dim, torch.float32 if half_to_float else None)


def _convolution(
    x: Tensor,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    more: Any,
    groups: Any,
) -> Tensor:
    forward, back = _CONVOLUTIONS[len(stride)]
    made: Tensor = (
        back(x, weight, bias, stride, padding, more, groups, dilation)
        if transposed
        else forward(x, weight, bias, stride, padding, dilation, groups)
    )
    return made


_CONVOLUTIONS: Mapping[int, tuple[Call, Call]] = {
    1: (F.conv1d, F.conv_transpose1d),
    2: (F.conv2d, F.conv_transpose2d),
    3: (F.conv3d, F.conv_transpose3d),
}
# mode of F.interpolate, and whether the op says how corners are aligned
_RESIZES = {
    "nearest1d": ("nearest", False), "nearest2d": ("nearest", False), "nearest3d": ("nearest", False),
    "linear1d": ("linear", True), "bilinear2d": ("bilinear", True), "trilinear3d": ("trilinear", True),
    "bicubic2d": ("bicubic", True),
}  # fmt: skip

_CALLS: Mapping[str, Call] = {
    **dict.fromkeys(("alias", "detach", "detach_", "lift_fresh", "lift_fresh_copy"), _same),
    "_adaptive_avg_pool2d": F.adaptive_avg_pool2d,
    "_adaptive_avg_pool3d": F.adaptive_avg_pool3d,
    "_log_softmax": _log_softmax,
    "_softmax": _softmax,
    "_to_copy": _to,
    "_unsafe_view": torch.reshape,
    "alpha_dropout": _dropout,
    "batch_norm": _batch_norm,
    "col2im": F.fold,
    "convolution": _convolution,
    "dropout": _dropout,
    "dropout_": _dropout,
    "embedding": _embedding,
    "feature_alpha_dropout": _dropout,
    "feature_dropout": _feature_dropout,
    "group_norm": _group_norm,
    "im2col": F.unfold,
    "index": _index,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "pad": F.pad,
    "rsub": _rsub,
    "scaled_dot_product_attention": F.scaled_dot_product_attention,
    "slice": _slice,
    "sym_numel": Tensor.numel,
    "sym_size": Tensor.size,
    "to": _to,
}
_OVERLOADS: Mapping[str, Call] = {
    "to.other": Tensor.type_as,
    "mul.Scalar": operator.mul,
    **{f"upsample_{name}.vec": _resize(*how) for name, how in _RESIZES.items()},
    **{f"upsample_{name}.default": _resize_to(*how) for name, how in _RESIZES.items()},
    **{f"_upsample_{n}_aa.vec": _resize(*_RESIZES[n], True) for n in ("bilinear2d", "bicubic2d")},
    **{f"_upsample_{n}_aa.default": _resize_to(*_RESIZES[n], True) for n in ("bilinear2d", "bicubic2d")},
}
# Ops with several results of which only the first is read.
_FIRST: Mapping[str, Call] = {
    **{f"max_pool{n}d_with_indices": getattr(F, f"max_pool{n}d") for n in (2, 3)},
    **{f"adaptive_max_pool{n}d": getattr(F, f"adaptive_max_pool{n}d") for n in (1, 2, 3)},
    "_native_batch_norm_legit_no_training": _batch_norm_of_eval,
    "native_layer_norm": _layer_norm,
}
