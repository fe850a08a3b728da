"""Which function with a weight among its arguments becomes which layer: a table, read by the pass functional-to-layer.

The layers have no parameters of their own: the graph gives them weight and bias.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from qatc.modules.fused import Fused
from qatc.modules.fused_forms import FUSED_FORMS


@dataclass(frozen=True)
class LayerForm:
    """One layer form: the calls it stands for and their arguments (name to default, in the call's order).

    `x`, `weight` and `bias` name the arguments that are the data, the weight and the bias; `transposed` says that the
    weight is [in, out], not [out, in]. The others are given to `build`, after the weight's shape, which returns None
    where the layer cannot express them. `strict`: the call has no other use, so where it does not fit, that is said.
    """

    name: str
    targets: tuple[Any, ...]
    arguments: Mapping[str, Any]
    build: Callable[..., nn.Module | None]
    x: str = "input"
    weight: str = "weight"
    bias: str | None = "bias"
    transposed: bool = False
    strict: bool = True

    def layer(self, shape: Sequence[int], options: Mapping[str, Any]) -> Fused | None:
        """Return the layer, without parameters, for a weight of that shape and the call's further arguments."""
        made = self.build(tuple(shape), **options)
        return None if made is None else FUSED_FORMS[type(made)].without_parameters(made)


def _conv(kind: type[nn.Module], rank: int) -> Callable[..., nn.Module | None]:
    def build(shape: tuple[int, ...], groups: int, **options: Any) -> nn.Module | None:
        if len(shape) != rank + 2:
            return None
        inputs, outputs = shape[1] * groups, shape[0]
        return kind(inputs, outputs, shape[2:], groups=groups, bias=False, device="meta", **options)

    return build


def _transposed(kind: type[nn.Module], rank: int) -> Callable[..., nn.Module | None]:
    def build(shape: tuple[int, ...], groups: int, **options: Any) -> nn.Module | None:
        if len(shape) != rank + 2:
            return None
        inputs, outputs = shape[0], shape[1] * groups
        return kind(inputs, outputs, shape[2:], groups=groups, bias=False, device="meta", **options)

    return build


def _linear(shape: tuple[int, ...], beta: float = 1, alpha: float = 1) -> nn.Module | None:
    if len(shape) != 2 or beta != 1 or alpha != 1:
        return None
    return nn.Linear(shape[1], shape[0], bias=False, device="meta")


_REQUIRED: dict[str, Any] = {"input": None, "weight": None, "bias": None}
_CONV = {**_REQUIRED, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_TRANSPOSED = {**_REQUIRED, "stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1}

LAYER_FORMS: tuple[LayerForm, ...] = (
    LayerForm("conv1d", (F.conv1d,), _CONV, _conv(nn.Conv1d, 1)),
    LayerForm("conv2d", (F.conv2d,), _CONV, _conv(nn.Conv2d, 2)),
    LayerForm("conv3d", (F.conv3d,), _CONV, _conv(nn.Conv3d, 3)),
    LayerForm("conv_transpose1d", (F.conv_transpose1d,), _TRANSPOSED, _transposed(nn.ConvTranspose1d, 1)),
    LayerForm("conv_transpose2d", (F.conv_transpose2d,), _TRANSPOSED, _transposed(nn.ConvTranspose2d, 2)),
    LayerForm("conv_transpose3d", (F.conv_transpose3d,), _TRANSPOSED, _transposed(nn.ConvTranspose3d, 3)),
    LayerForm("linear", (F.linear,), _REQUIRED, _linear),
    LayerForm("linear", (torch.addmm, "addmm"), {"input": None, "mat1": None, "mat2": None, "beta": 1, "alpha": 1},
              _linear, x="mat1", weight="mat2", bias="input", transposed=True, strict=False),
    LayerForm("linear", (torch.matmul, "matmul", operator.matmul), {"input": None, "other": None},
              _linear, weight="other", bias=None, transposed=True, strict=False),
    LayerForm("linear", (torch.mm, "mm"), {"input": None, "mat2": None},
              _linear, weight="mat2", bias=None, transposed=True, strict=False),
)  # fmt: skip
