"""The networks that the benches over targets and of latency measure: seeded weights and statistics, none downloaded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.bench.networks import vit_small
from tools.models import images, model_named, torchvision_models
from tools.zoo_suites.classics_images import UNetTransposed
from tools.zoo_suites.weights import randomise

CALIBRATION, COMPARISON, BATCH = 16, 8, 8  # images to calibrate on, to compare codes on, and at a time


class ConvSilu(nn.Module):
    """A convolution, BatchNorm and SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn, self.act = nn.BatchNorm2d(outputs), nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, outputs, H / stride, W / stride]."""
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class SplitBlock(nn.Module):
    """YOLOv8's C2f: half of the channels go on through a residual, and all halves are concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.entry, self.exit = ConvSilu(channels, channels, 1), ConvSilu(3 * channels // 2, channels, 1)
        self.first, self.second = ConvSilu(channels // 2, channels // 2), ConvSilu(channels // 2, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like x."""
        left, right = self.entry(x).chunk(2, 1)
        y: Tensor = self.exit(torch.cat([left, right, right + self.second(self.first(right))], 1))
        return y


class Detector(nn.Module):
    """A detector as YOLO has it: SiLU, split and concatenated blocks, pooled pyramid, upsampled neck, two heads."""

    def __init__(self, width: int = 32, outputs: int = 24) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvSilu(3, width // 2, 3, 2), ConvSilu(width // 2, width, 3, 2), SplitBlock(width))
        self.middle = nn.Sequential(ConvSilu(width, 2 * width, 3, 2), SplitBlock(2 * width))
        self.deep = nn.Sequential(ConvSilu(2 * width, 4 * width, 3, 2), SplitBlock(4 * width))
        self.narrow, self.pool = ConvSilu(4 * width, 2 * width, 1), nn.MaxPool2d(5, 1, 2)
        self.pooled = ConvSilu(8 * width, 4 * width, 1)
        self.merge = ConvSilu(6 * width, 2 * width, 1)
        self.near, self.far = nn.Conv2d(2 * width, outputs, 1), nn.Conv2d(4 * width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return what is predicted at each position of two grids, [N, outputs, positions]."""
        middle = self.middle(self.stem(x))
        y = self.narrow(self.deep(middle))
        y1 = self.pool(y)
        y2 = self.pool(y1)
        deep = self.pooled(torch.cat([y, y1, y2, self.pool(y2)], 1))
        up = F.interpolate(deep, scale_factor=2.0, mode="nearest")
        near = self.merge(torch.cat([up, middle], 1))
        return torch.cat([self.near(near).flatten(2), self.far(deep).flatten(2)], 2)


class Segmented(nn.Module):
    """A segmentation network of torchvision, its main result alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """Return logits [N, classes, H, W]."""
        return self.model(x)["out"]


def deeplab() -> nn.Module:
    """Return torchvision's deeplabv3_mobilenet_v3_large."""
    of: Any = torchvision_models().segmentation
    return Segmented(of.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21))


@dataclass(frozen=True)
class Network:
    """How a network is built, and the height and width of its images where codes are compared and time is taken."""

    build: Callable[[], nn.Module]
    size: int = 64
    timed: int = 224


def _named(name: str) -> Callable[[], nn.Module]:
    return lambda: model_named(name)


CORPUS: Mapping[str, Network] = {
    **{
        name: Network(_named(name))
        for name in (
            "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1",
            "densenet121", "shufflenet_v2_x1_0", "regnet_y_400mf",
        )
    },
    "unet": Network(UNetTransposed),
    "deeplabv3": Network(deeplab, 96),
    "detector": Network(Detector),
    "vit": Network(vit_small, 96, 96),
    "convnext_tiny": Network(_named("convnext_tiny")),
}  # fmt: skip
"""Every network by name; the first nine and the last are torchvision's."""

CONVOLUTIONAL = tuple(name for name in CORPUS if name not in ("vit", "convnext_tiny"))
"""Those without LayerNorm and attention."""


def built(name: str, size: int) -> tuple[nn.Module, Tensor]:
    """Return a network with seeded weights and statistics, and the images [N, 3, size, size] that fit them."""
    torch.manual_seed(0)
    calibration = images(CALIBRATION, 3, size, size, seed=1)
    return randomise(CORPUS[name].build(), (calibration,)), calibration
