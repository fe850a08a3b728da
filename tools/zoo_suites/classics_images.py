"""Hand-written networks that look at images, one hazard each; the class's docstring names it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution with BatchNorm and ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class LeNet(nn.Module):
    """One ReLU and one MaxPool for every place, as MindSpore's tutorial of quantization writes LeNet-5."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)
        self.relu = nn.ReLU()
        self.max_pool2d = nn.MaxPool2d(kernel_size=2, stride=2)
        self.flatten = nn.Flatten()

    def forward(self, x: Tensor) -> Any:
        x = self.max_pool2d(self.relu(self.conv1(x)))
        x = self.max_pool2d(self.relu(self.conv2(x)))
        x = self.flatten(x)
        x = self.relu(self.fc1(x))
        x = self.relu(self.fc2(x))
        return self.fc3(x)


class UNetInterpolate(nn.Module):
    """Upsampled to the size of the skip connection, which is read from its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = conv_bn_relu(3, 8), conv_bn_relu(8, 16)
        self.bottom = conv_bn_relu(16, 32)
        self.up2, self.up1 = conv_bn_relu(48, 16), conv_bn_relu(24, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        skip1 = self.down1(x)
        skip2 = self.down2(F.max_pool2d(skip1, 2))
        y = self.bottom(F.max_pool2d(skip2, 2))
        y = F.interpolate(y, size=skip2.shape[2:], mode="nearest")
        y = self.up2(torch.cat([y, skip2], dim=1))
        y = F.interpolate(y, size=skip1.shape[-2:], mode="nearest")
        return self.head(self.up1(torch.cat([y, skip1], dim=1)))


class UNetTransposed(nn.Module):
    """Transposed convolutions, and padding by the difference of two shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = conv_bn_relu(3, 8), conv_bn_relu(8, 16)
        self.bottom = conv_bn_relu(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.merge2, self.merge1 = conv_bn_relu(32, 16), conv_bn_relu(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        skip1 = self.down1(x)
        skip2 = self.down2(F.max_pool2d(skip1, 2))
        y = self.bottom(F.max_pool2d(skip2, 2))
        y = self.merge2(self.joined(self.up2(y), skip2))
        return self.head(self.merge1(self.joined(self.up1(y), skip1)))

    @staticmethod
    def joined(x: Tensor, skip: Tensor) -> Tensor:
        high, wide = skip.size(2) - x.size(2), skip.size(3) - x.size(3)
        x = F.pad(x, [wide // 2, wide - wide // 2, high // 2, high - high // 2])
        return torch.cat([skip, x], dim=1)


class SqueezeExcite(nn.Module):
    """A gate per channel: global mean, two 1x1 convolutions, sigmoid, and a broadcast product."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = conv_bn_relu(3, 16, 2), conv_bn_relu(16, 16)
        self.reduce, self.expand = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        y = self.conv(x)
        gate = self.expand(F.relu(self.reduce(y.mean((2, 3), keepdim=True))))
        x = x + y * torch.sigmoid(gate)
        return self.fc(x.mean(dim=[2, 3]))


class ChannelShuffle(nn.Module):
    """Channels split in halves, and shuffled by view, transpose and contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 16, 2)
        self.branch = nn.Sequential(conv_bn_relu(8, 8, groups=8), nn.Conv2d(8, 8, 1))
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Any:
        left, right = self.stem(x).chunk(2, dim=1)
        x = torch.cat((left, self.branch(right)), dim=1)
        n, c, h, w = x.size()
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class DepthwiseSeparable(nn.Module):
    """Depthwise convolutions with ReLU6, as MobileNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 16, 2)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(16), nn.BatchNorm2d(32)
        self.pointwise = nn.Conv2d(16, 32, 1, bias=False)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Any:
        x = F.relu6(self.bn1(self.depthwise(self.stem(x))))
        x = F.relu6(self.bn2(self.pointwise(x)))
        return self.fc(F.avg_pool2d(x, x.shape[2:]).flatten(1))


class YoloHead(nn.Module):
    """A grid of coordinates kept from call to call, and boxes built by slices of a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv_bn_relu(3, 8, 2), nn.Conv2d(8, 3 * 7, 1)
        self.grid: Tensor | None = None
        self.register_buffer("anchors", torch.tensor([[1.0, 2.0], [3.0, 2.0], [2.0, 4.0]]).view(1, 3, 1, 1, 2))
        self.anchors: Tensor

    def forward(self, x: Tensor) -> Any:
        x = self.head(self.stem(x))
        n, _, high, wide = x.shape
        x = x.view(n, 3, 7, high, wide).permute(0, 1, 3, 4, 2).contiguous()
        if self.grid is None or self.grid.shape[2:4] != x.shape[2:4]:
            self.grid = self.make_grid(wide, high).to(x.device)
        y = x.sigmoid()
        middle = (y[..., 0:2] * 2.0 - 0.5 + self.grid) * 2.0
        size = (y[..., 2:4] * 2) ** 2 * self.anchors
        return torch.cat((middle, size, y[..., 4:]), -1).view(n, -1, 7)

    @staticmethod
    def make_grid(wide: int, high: int) -> Tensor:
        rows, columns = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
        return torch.stack((columns, rows), 2).view(1, 1, high, wide, 2).float()


class SiluConcatResize(nn.Module):
    """SiLU everywhere, and branches resized and concatenated, as in detectors' necks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.lateral, self.act = nn.Conv2d(16, 8, 1), nn.SiLU()
        self.merge, self.up = nn.Conv2d(16, 8, 3, padding=1), nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, x: Tensor) -> Any:
        fine = self.act(self.bn1(self.conv1(x)))
        coarse = F.silu(self.bn2(self.conv2(fine)))
        return self.act(self.merge(torch.cat([self.up(self.lateral(coarse)), fine], 1))), coarse


class CoordinateGrid(nn.Module):
    """Coordinates as two more channels, made by arange on the image's device for the batch at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(5, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        n, _, h, w = x.shape
        column = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype) / (w - 1)
        row = torch.arange(h, device=x.device, dtype=x.dtype) / (h - 1)
        columns = column.view(1, 1, 1, w).expand(n, 1, h, w)
        rows = row.view(1, 1, h, 1).expand(n, 1, h, w)
        return self.head(F.relu(self.conv(torch.cat([x, columns, rows], dim=1))))
