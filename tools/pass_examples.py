"""A small model for each pass, in which it has something to do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qatc.config import QConfig, config_of
from qatc.lowering.constant_sizes import ConstantSizes
from qatc.lowering.flatten_inputs import FlattenInputs
from qatc.lowering.flatten_outputs import FlattenOutputs
from qatc.lowering.fold_constants import FoldConstants
from qatc.lowering.lower_modules import DropCoveredClips, DropInactive, LowerModules
from qatc.lowering.record_types import RecordTypes
from qatc.lowering.take_clips_back import TakeClipsBack
from qatc.passes import (
    ConstrainPow2Scales,
    DecomposeComposites,
    DedupModules,
    FoldBatchNorms,
    FoldBnSelf,
    Functionalize,
    FunctionalToLayer,
    FunctionalToModule,
    FuseConvBnAct,
    InsertQuantizers,
    LeaveClips,
    ShareScales,
    TrainBatchNorms,
)
from qatc.pipeline import Pass

W8A8 = config_of("w8a8")


@dataclass(frozen=True)
class Example:
    """A model, the inputs that it is shown, what it is prepared for, and whether the pass is one of lowering.

    `types` says whether the shapes of the inputs are known before they are seen.
    """

    model: Callable[[], nn.Module]
    inputs: Any
    target: str = "onnxruntime"
    config: QConfig = W8A8
    lower: bool = False
    types: bool = True


class Computed(nn.Module):
    """A model with a layer `conv` and a parameter `weight`, computed by a function of it and the input."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.weight = nn.Conv2d(2, 2, 3, padding=1), nn.Parameter(torch.ones(2, 2, 1, 1))
        self.function = function

    def forward(self, x: Any) -> Any:
        """Return what the function does."""
        return self.function(self, x)


def computed(function: Callable[..., Any]) -> Callable[[], nn.Module]:
    """Return what makes such a model."""
    return lambda: Computed(function)


def layers(*made: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """Return what makes a model of layers in a row."""
    return lambda: nn.Sequential(*(make() for make in made))


def conv() -> nn.Module:
    """Return a convolution."""
    return nn.Conv2d(2, 2, 3, padding=1)


def norm() -> nn.Module:
    """Return a BatchNorm."""
    return nn.BatchNorm2d(2)


X = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))


class SharedRelu(nn.Module):
    """One ReLU behind two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.relu = conv(), conv(), nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        """Return a tensor like x, [N, 2, H, W]."""
        return self.relu(self.b(self.relu(self.a(x))))


class Dense(nn.Module):
    """A layer whose result stands beside its input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = conv(), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Any:
        """Return a tensor like x, [N, 2, H, W]."""
        return self.head(torch.cat([x, self.a(x)], 1))


def overwritten(model: Any, x: Tensor) -> Tensor:
    """Overwrite a tensor that is read under its old name."""
    y = z = model.conv(x)
    z += 1
    return y * 2  # type: ignore[no-any-return]


EXAMPLES: Mapping[type[Pass], Example] = {
    DedupModules: Example(SharedRelu, X),
    Functionalize: Example(computed(overwritten), X),
    DecomposeComposites: Example(computed(lambda m, x: F.scaled_dot_product_attention(m.conv(x), x, x)), X),
    FunctionalToLayer: Example(computed(lambda m, x: F.conv2d(x, m.weight)), X),
    FunctionalToModule: Example(computed(lambda m, x: F.relu(m.conv(x) + x)), X),
    FuseConvBnAct: Example(layers(conv, norm, nn.ReLU), X),
    FoldBnSelf: Example(layers(norm, nn.ReLU, conv), X),
    FoldBatchNorms: Example(layers(conv, norm, nn.ReLU), X, config=replace(W8A8, batch_norm="folded")),
    TrainBatchNorms: Example(layers(conv, norm, nn.ReLU), X, config=replace(W8A8, batch_norm="two-convolutions")),
    InsertQuantizers: Example(layers(conv, nn.ReLU, conv), X),
    ShareScales: Example(Dense, X, "tensorrt"),
    ConstrainPow2Scales: Example(layers(conv, nn.ReLU), X, config=config_of("w8a8-pow2")),
    LeaveClips: Example(layers(conv, nn.ReLU, conv), X),
    FlattenInputs: Example(computed(lambda m, x: m.conv(x["image"])), ({"image": X},), lower=True),
    RecordTypes: Example(layers(conv, nn.ReLU), X, lower=True, types=False),
    FlattenOutputs: Example(computed(lambda m, x: {"y": m.conv(x), "sizes": [x]}), X, lower=True),
    ConstantSizes: Example(computed(lambda m, x: m.conv(x).view(x.shape[0], -1, 2 * x.shape[2], 2)), X, lower=True),
    FoldConstants: Example(computed(lambda m, x: F.conv2d(x, m.weight - m.weight.mean())), X, lower=True),
    DropInactive: Example(layers(conv, nn.Dropout, conv), X, lower=True),
    TakeClipsBack: Example(layers(conv, nn.ReLU, conv), X, lower=True),
    DropCoveredClips: Example(layers(conv, nn.ReLU, conv), X, config=replace(config_of("w4a4"), rules=()), lower=True),
    LowerModules: Example(layers(conv, nn.ReLU, conv), X, lower=True),
}
