"""Small networks of the kinds that people deploy, lowered for each target, for the linter to find nothing in."""

from functools import cache
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qatc
from qatc.lowering import lowered_proto
from tests.models import images, randomise


def _block(
    inputs: int, outputs: int, kernel: int = 3, act: type[nn.Module] = nn.ReLU, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, groups=groups)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), act())


class Residual(nn.Module):
    """Two residual blocks, the second with a convolution on its skip; an average pool, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1, self.bn1 = _block(3, 16), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.skip = nn.Sequential(_block(16, 32), nn.Conv2d(32, 32, 3, padding=1)), nn.Conv2d(16, 32, 1)
        self.head = nn.Linear(32 * 4, 16)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        x = F.relu(self.bn1(self.conv1(x)) + x)
        x = F.relu(self.conv2(x) + self.skip(x))
        return self.head(F.avg_pool2d(F.max_pool2d(x, 2), 4).flatten(1))


class InvertedResiduals(nn.Module):
    """MobileNetV2's block: expansion, depthwise, projection, dropout, a residual add; then a pooled classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 16, act=nn.ReLU6)
        expand, deep = _block(16, 48, 1, nn.ReLU6), _block(48, 48, act=nn.ReLU6, groups=48)
        project = nn.Sequential(nn.Conv2d(48, 16, 1, bias=False), nn.BatchNorm2d(16), nn.Dropout(0.1))
        self.block = nn.Sequential(expand, deep, project)
        self.head = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        x = x + self.block(x)
        return self.head(x.mean((2, 3)))


class SqueezeExcite(nn.Module):
    """EfficientNet's block: SiLU, a gate pooled from what it scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(3, 32, act=nn.SiLU)
        self.squeeze, self.excite = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 32, 1)
        self.head = _block(32, 16, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(x * gate)


class UNet(nn.Module):
    """Down by a pool, up by a transposed convolution, what was before the pool concatenated; nearest upsampling too."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = _block(3, 16), _block(16, 32)
        self.up, self.out = nn.ConvTranspose2d(32, 16, 2, stride=2), _block(32, 16)
        self.last = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Any:
        skip = self.down(x)
        x = self.up(self.middle(F.max_pool2d(skip, 2)))
        x = self.out(torch.cat((x, skip), 1))
        return self.last(F.interpolate(x, scale_factor=2.0))


class VisionTransformer(nn.Module):
    """Patches, one encoder layer before whose parts there are norms, GELU, a mean over tokens, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(32), nn.LayerNorm(32), nn.LayerNorm(32)
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.up, self.down, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(self.norm3(x).mean(1))


NETWORKS: dict[str, type[nn.Module]] = {
    "residual": Residual,
    "inverted residuals": InvertedResiduals,
    "squeeze and excite": SqueezeExcite,
    "u-net": UNet,
    "vision transformer": VisionTransformer,
}


@cache
def lowered(network: str, target: str, config: str = "w8a8") -> onnx.ModelProto:
    """Return the network with seeded weights, calibrated on seeded images, as a file for the target."""
    torch.manual_seed(0)
    shape = (2, 3, 16, 16)
    model = qatc.prepare(randomise(NETWORKS[network]()), images(*shape), target, config)
    qatc.calibrate(model, [images(*shape, seed=1), images(*shape, seed=2)], progress=False)
    return lowered_proto(model).proto
