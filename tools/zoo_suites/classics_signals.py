"""Hand-written networks that make images, hear sounds and see volumes, one hazard each."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SuperResolution(nn.Module):
    """Pixel shuffle behind the last convolution, and a long skip around everything."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.tail, self.shuffle = nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Any:
        y = self.head(x)
        y = y + self.body(F.leaky_relu(y, 0.2))
        return self.shuffle(self.tail(y)) + F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class DcganGenerator(nn.Module):
    """From noise to an image by transposed convolutions with BatchNorm, a convolution to colours, and a tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(16, 32, 4, 1, 0, bias=False), nn.BatchNorm2d(32), nn.ReLU(True),
            nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True),
            nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
            nn.Conv2d(8, 3, 3, 1, 1), nn.Tanh(),
        )  # fmt: skip

    def forward(self, noise: Tensor) -> Any:
        return self.main(noise.view(*noise.shape, 1, 1))


class Autoencoder(nn.Module):
    """A bottleneck of Linear layers between convolutions, unflattened again."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.squeeze, self.spread = nn.Linear(1024, 32), nn.Linear(32, 1024)
        self.decode = nn.Sequential(
            nn.Unflatten(1, (16, 8, 8)), nn.Upsample(scale_factor=2), nn.Conv2d(16, 8, 3, 1, 1), nn.ReLU(),
            nn.Upsample(scale_factor=2), nn.Conv2d(8, 3, 3, 1, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Any:
        return self.decode(torch.relu(self.spread(self.squeeze(self.encode(x)))))


class AudioNet(nn.Module):
    """Dilated 1-d convolutions with gates of tanh and sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv1d(1, 16, 9, stride=4), nn.BatchNorm1d(16)
        self.filters = nn.ModuleList(nn.Conv1d(16, 16, 3, padding=2**i, dilation=2**i) for i in range(3))
        self.gates = nn.ModuleList(nn.Conv1d(16, 16, 3, padding=2**i, dilation=2**i) for i in range(3))
        self.fc = nn.Linear(16, 10)

    def forward(self, sound: Tensor) -> Any:
        x = F.relu(self.bn(self.stem(sound)))
        for filters, gate in zip(self.filters, self.gates, strict=True):
            x = x + torch.tanh(filters(x)) * torch.sigmoid(gate(x))
        return self.fc(x.mean(-1))


class VolumeNet(nn.Module):
    """3-d convolutions, BatchNorm and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv3d(1, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8)
        self.conv2, self.bn2 = nn.Conv3d(8, 16, 3, padding=1, bias=False), nn.BatchNorm3d(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool3d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(F.adaptive_avg_pool3d(x, 1).flatten(1))


class GroupNormNet(nn.Module):
    """GroupNorm and InstanceNorm between convolutions, which cannot be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.conv2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1), nn.InstanceNorm2d(16, affine=True)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.norm1(self.conv1(x)))
        x = x + F.elu(self.norm2(self.conv2(x)))
        return self.fc(x.mean((-2, -1)))
