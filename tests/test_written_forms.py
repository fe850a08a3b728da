"""However an op is written, the prepared model computes it, calibrates and trains: with example inputs and without."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qatc
from tests.check_pass import close, evaluated, trained
from tests.models import conv, images, randomise
from tests.written_forms import ACTIVATIONS, ARITHMETIC, ATTENTION, LAYERS, OVERWRITING, SHAPES

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    **ARITHMETIC,
    **ACTIVATIONS,
    **SHAPES,
    **LAYERS,
    **OVERWRITING,
    **ATTENTION,
    "x + number": lambda x: x + 1,
    "number - x": lambda x: 1 - x,
    "number * x": lambda x: 2 * x,
    "number / x": lambda x: 1 / (x.abs() + 1),
    "x / tensor": lambda x: x / (x.abs() + 1),
    "-x": lambda x: -x,
    "x ** number": lambda x: x**2,
    "x @ x": lambda x: x @ x,
    "bmm": lambda x: torch.bmm(x.flatten(0, 1), x.flatten(0, 1)),
    "einsum": lambda x: torch.einsum("nchw,ncij->nhi", x, x),
    "add with other": lambda x: torch.add(x, other=x),
    "add with alpha": lambda x: torch.add(x, x.relu(), alpha=2),
    "sub with alpha": lambda x: torch.sub(x, x.relu(), alpha=3),
    "rsub": lambda x: torch.rsub(x, 1.0),
    "mul with other": lambda x: torch.mul(x, other=2.0),
    "relu in place": lambda x: F.relu(x, inplace=True),
    "leaky_relu in place, by position": lambda x: F.leaky_relu(x, 0.2, True),
    "leaky_relu_": lambda x: F.leaky_relu_(x, 0.2),
    "tanh_": lambda x: x.tanh_(),
    "celu in place": lambda x: F.celu(x, inplace=True) + x,
    "relu6": lambda x: F.relu6(x),
    "clip": lambda x: x.clip(-1, 1),
    "clamp with a minimum": lambda x: torch.clamp(x, min=0),
    "clamp with a maximum": lambda x: x.clamp(max=1),
    "hardtanh": lambda x: F.hardtanh(x),
    "hardswish": lambda x: F.hardswish(x),
    "hardsigmoid": lambda x: F.hardsigmoid(x, inplace=True),
    "silu": lambda x: F.silu(x),
    "elu": lambda x: F.elu(x, 0.5),
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "softmax": lambda x: torch.softmax(x, 1),
    "softmax with a type": lambda x: torch.softmax(x, 1, torch.float64),
    "mean of all": lambda x: x.mean(),
    "mean of a list": lambda x: x.mean([-1]),
    "mean with a type": lambda x: x.mean(dim=1, dtype=torch.float64),
    "mean of all, kept": lambda x: torch.mean(x, None, True),
    "sum": lambda x: x.sum(1),
    "cat": lambda x: torch.cat((x, x)),
    "cat by name": lambda x: torch.cat(tensors=[x, x], dim=-3),
    "stack": lambda x: torch.stack([x, x], 1),
    "chunk": lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1],
    "cat of split": lambda x: torch.cat(torch.split(x, 2, 1), 1),
    "a slice": lambda x: x[:, 1:, ::2],
    "flatten": lambda x: x.flatten(),
    "flatten by name": lambda x: torch.flatten(x, start_dim=1),
    "flatten from a size": lambda x: x.flatten(x.ndim - 2),
    "view by sizes": lambda x: x.view(x.size(0), x.shape[1] * x.shape[2], -1),
    "view of a tuple": lambda x: x.view((4, -1)),
    "view to one": lambda x: x.view(-1),
    "view by numel": lambda x: x.view(x.numel()),
    "view by a shape": lambda x: x.reshape(x.flatten(1).shape),
    "view by part of a shape": lambda x: x.view(x.shape[:2] + (-1,)),  # noqa: RUF005  (as models write it)
    "view as another type": lambda x: x + x.view(torch.int32).view(torch.float32),
    "reshape by name": lambda x: torch.reshape(input=x, shape=(4, -1)),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "permute by name": lambda x: torch.permute(x, dims=(0, 2, 3, 1)),
    "transpose": lambda x: torch.transpose(x, dim0=1, dim1=-1),
    "mT": lambda x: x.mT,
    "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(),
    "squeeze of one": lambda x: x.mean((2, 3), keepdim=True).squeeze(-1),
    "unsqueeze": lambda x: torch.unsqueeze(x, dim=-1),
    "expand": lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8) + x,
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True),
    "max_pool2d of torch": lambda x: torch.max_pool2d(x, 2),
    "max_pool2d with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, (2, 1), stride=(1, 2)),
    "avg_pool2d with a divisor": lambda x: F.avg_pool2d(x, 2, divisor_override=3),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (2, None)),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 1),
    "interpolate to a size": lambda x: F.interpolate(x, (5, 7)),
    "interpolate to a computed size": lambda x: F.interpolate(x, size=(x.shape[2] * 2, 16)),
    "interpolate with a factor": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "pad": lambda x: F.pad(x, (1, 1)),
    "layer_norm": lambda x: F.layer_norm(x, (8, 8)),
    "batch_norm": lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4)),
    "linear": lambda x: F.linear(x, torch.ones(6, 8)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "a scale from a size": lambda x: x.size(-1) ** -0.5 * x,
    "a type from a tensor": lambda x: x + torch.zeros(8, dtype=x.dtype, device=x.device),
}


# They give dimension 0 a size of 4.
FIX_THE_BATCH = ("view of a tuple", "reshape by name", "take_along_dim", "contiguous", "the whole added to")


class Written(nn.Module):
    """A convolution, and the op behind it."""

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.form = conv(3, 4), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.conv(x))


@pytest.mark.parametrize(("target", "given"), [("onnxruntime", images()), ("tensorrt", None)], ids=["typed", "untyped"])
@pytest.mark.parametrize("name", FORMS)
def test_it_is_computed_calibrated_trained_and_reported(name: str, target: str, given: Tensor | None) -> None:
    model = randomise(Written(FORMS[name]))
    fixes_batch = name in FIX_THE_BATCH and given is not None
    with pytest.warns(qatc.QatcWarning, match="the batch is fixed") if fixes_batch else nullcontext():
        gm = qatc.prepare(model, given, target)
    expected = evaluated(model, [images()])
    with qatc.float_mode(gm):
        close(evaluated(gm, [images()]), expected, name)
    qatc.calibrate(gm, [images()], progress=False)
    # 8 bits on every edge; an op on the wrong tensor, or a grid of the wrong one, is off by far more.
    close(evaluated(gm, [images()]), expected, f"{name}, quantized", 0.06)
    trained(gm, [images()])
    fused = getattr(gm.conv, "activation", None) is not None
    assert len(gm.report.rows) > 1 - fused
