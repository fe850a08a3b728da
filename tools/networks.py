"""Two small networks with everything that quantization tools ask their users to take out by hand first."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet(nn.Module):
    """LeNet-5 for 32x32 images; its one ReLU and its one MaxPool are called again and again."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 1, 32, 32]."""
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        x = x.flatten(1)
        x = self.relu(self.fc1(x))
        x = self.relu(self.fc2(x))
        logits: Tensor = self.fc3(x)
        return logits


class ResidualNet(nn.Module):
    """A residual block, a BatchNorm before a convolution, a depthwise branch that is upsampled and concatenated."""

    def __init__(self, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.norm = nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width, bias=False)
        self.depthwise_bn = nn.BatchNorm2d(2 * width)
        self.merge = nn.Conv2d(3 * width, 4 * width, 3, stride=2, padding=1, bias=False)
        self.merge_bn = nn.BatchNorm2d(4 * width)
        self.fc = nn.Linear(8 * width, classes)
        self.relu = nn.ReLU(inplace=True)
        self.relu6 = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [N, classes] of images [N, 1, 32, 32]."""
        x = self.relu(self.stem_bn(self.stem(x)))
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        x = self.relu(x + y)
        y = self.relu(self.down(self.norm(x)))
        y = self.relu6(self.depthwise_bn(self.depthwise(y)))
        y = F.interpolate(y, scale_factor=2)
        x = self.relu(self.merge_bn(self.merge(torch.cat([x, y], dim=1))))
        mean, peak = x.mean((2, 3)), F.max_pool2d(x, 8).flatten(1)
        logits: Tensor = self.fc(torch.cat([mean, peak], dim=1))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {"lenet": LeNet, "resnet-digits": ResidualNet}
