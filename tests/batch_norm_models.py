"""BatchNorm in the dresses that models give it; all read [N, 3, 8, 8]."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models import conv


class OwnBatchNorm(nn.Module):
    """A user's own BatchNorm: its members have torch's names, it counts no batches."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Any:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, momentum=0.3, eps=1e-3
        )


class BatchNormThenAct(nn.BatchNorm2d):
    """A BatchNorm with an activation of its own, as timm's BatchNormAct2d."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels, eps=1e-3, momentum=0.2)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: Tensor) -> Any:
        training, momentum = self.training, self.momentum or 0.0
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training, momentum if training else 0.0,
            self.eps,
        )  # fmt: skip
        if training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return self.act(self.drop(y))


class NeverTraining(OwnBatchNorm):
    """One that uses its running statistics even in training, though it has parameters."""

    def forward(self, x: Tensor) -> Any:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, 1e-5)


class Frozen(nn.Module):
    """A frozen BatchNorm: four buffers; `act` is called behind it, `shift` makes it something else."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, act: nn.Module | None = None, shift: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name in ("weight", "bias", "running_mean"):
            self.register_buffer(name, torch.randn(channels, generator=generator))
        self.register_buffer("running_var", torch.rand(channels, generator=generator) + 0.5)
        self.eps, self.shift = 1e-3, shift
        if act is not None:
            self.act = act

    def forward(self, x: Tensor) -> Any:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale + self.shift
        y = x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
        return self.act(y) if hasattr(self, "act") else y


class GivenStatistics(nn.Module):
    """F.batch_norm on members by other names."""

    mean: Tensor
    var: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = conv(3, 4), conv(4, 4)
        self.gamma, self.beta = nn.Parameter(torch.empty(4)), nn.Parameter(torch.empty(4))
        self.register_buffer("mean", torch.full((4,), 0.3))
        self.register_buffer("var", torch.full((4,), 0.7))

    def forward(self, x: Tensor) -> Any:
        y = F.batch_norm(self.conv(x), self.mean, self.var, self.gamma, self.beta, self.training, 0.2, 1e-3)
        return self.head(F.relu(y))


class OneBatchNormTwoDresses(nn.Module):
    """One BatchNorm behind a convolution, and alone before a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = conv(3, 3), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x: Tensor) -> Any:
        return self.relu(self.bn(F.max_pool2d(self.bn(self.conv(x)), 2)))


def behind_conv(norm: nn.Module) -> nn.Module:
    """Return conv, norm, conv."""
    return nn.Sequential(conv(3, 4), norm, conv(4, 4))


class Pooled(nn.Module):
    """A BatchNorm of [N, C] with no layer in front of it, as before a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = conv(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.bn(self.conv(x).mean((2, 3))))


class Rows(nn.Module):
    """A Linear over positions whose BatchNorm reads them as rows, as LeViT has it; and in another writing."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(8, 6), nn.BatchNorm1d(6)
        self.fc2, self.bn2 = nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Any:
        y = self.fc(x.flatten(1, 2))
        y = self.bn(y.flatten(0, 1)).reshape_as(y)
        return self.bn2(self.fc2(y).view(-1, 4)).relu().view(x.shape[0], -1, 4)
