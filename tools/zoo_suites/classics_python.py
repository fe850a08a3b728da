"""Hand-written networks whose Python does more than call layers."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tools.zoo_suites.classics_images import conv_bn_relu


class FunctionalOnly(nn.Module):
    """No layer at all: parameters and buffers of its own, and torch.nn.functional."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_weight = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2)
        self.conv_bias = nn.Parameter(torch.randn(8) * 0.1)
        self.gamma, self.beta = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8) * 0.1)
        self.register_buffer("mean", torch.randn(8) * 0.1)
        self.register_buffer("var", torch.rand(8) + 0.5)
        self.fc_weight, self.fc_bias = nn.Parameter(torch.randn(10, 8) * 0.3), nn.Parameter(torch.zeros(10))
        self.mean: Tensor
        self.var: Tensor

    def forward(self, x: Tensor) -> Any:
        x = F.conv2d(x, self.conv_weight, self.conv_bias, padding=1)
        x = F.batch_norm(x, self.mean, self.var, self.gamma, self.beta, training=self.training)
        x = F.adaptive_avg_pool2d(F.max_pool2d(F.relu(x), 2), 1).flatten(1)
        return F.linear(x, self.fc_weight, self.fc_bias)


class WeightStandardised(nn.Module):
    """Convolutions whose weights are standardised at every call, with GroupNorm."""

    class Conv(nn.Conv2d):
        """A convolution with its weight's mean and variance taken out."""

        def forward(self, input: Tensor) -> Tensor:
            mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
            spread = self.weight.std(dim=(1, 2, 3), keepdim=True)
            return F.conv2d(input, (self.weight - mean) / (spread + 1e-5), self.bias, self.stride, self.padding)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = self.Conv(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.conv2, self.norm2 = self.Conv(16, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)) + x)
        return self.fc(x.mean((2, 3)))


class DataDependentPart(nn.Module):
    """A submodule decides on values: it stays a float leaf, the rest is quantized."""

    class Gate(nn.Module):
        """Takes another way where the mean of what it sees is positive."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Any:
            return self.up(x) if x.mean() > 0 else self.down(x)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = conv_bn_relu(3, 8), self.Gate(), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        return self.head(F.relu(self.gate(self.stem(x))))


class InplaceChain(nn.Module):
    """Tensors overwritten by operators, methods, functions and assignments to a part."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.conv3 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.bn(self.conv1(x))
        x.relu_()
        y = self.conv2(x)
        y += x
        y.mul_(0.5).add_(1.0)
        y[:, 0] = 0
        z = F.relu(self.conv3(y), inplace=True) + 0.5
        z[:, 1:3, ::2] *= 2.0
        return z.clamp_(max=4.0)


class ShapeBranch(nn.Module):
    """Branches and asserts on shapes, and a size cut down by int()."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        assert x.dim() == 4, "images, please"
        if x.shape[2] % 2:
            x = F.pad(x, (0, 0, 0, 1))
        if x.size(1) != 3:
            raise ValueError(f"no colours in {tuple(x.shape)}")
        x = F.relu(self.conv(x))
        keep = int(x.shape[2] * 0.5)
        x = x[:, :, :keep, : max(2, x.shape[3] // 2)]
        return self.head(x.mean((2, 3))).view(x.size(0), -1)


class LenOfBatch(nn.Module):
    """len() of a batch, which Python turns into a plain number: in a test, and as a size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = conv_bn_relu(3, 8, 2), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        if len(x) == 0:
            raise ValueError("no images")
        return self.head(self.conv(x).mean((2, 3))).view(len(x), 2, 2)


class ChunkLoop(nn.Module):
    """A loop over a tensor's chunks, and one over its channels unbound."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn_relu(3, 12)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.weigh = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Any:
        found: list[Tensor] = []
        for conv, part in zip(self.convs, self.stem(x).chunk(3, dim=1), strict=True):
            found.append(conv(part if not found else part + found[-1]))
        total = torch.cat(found, dim=1)
        first, *_ = total.unbind(1)
        return total, self.weigh(first.unsqueeze(1))


class Rounded(torch.autograd.Function):
    """Rounding whose gradient is that of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x * 8) / 8

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class StraightThrough(nn.Module):
    """An autograd.Function between layers, whose own backward is the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Any:
        return self.conv2(Rounded.apply(torch.tanh(self.conv1(x))))


class Checkpointed(nn.Module):
    """torch.utils.checkpoint around blocks, in either of its forms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv_bn_relu(3, 8), nn.Conv2d(8, 4, 1)
        self.a, self.b = (nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(2))

    def forward(self, x: Tensor) -> Any:
        x = checkpoint(self.a, self.stem(x), use_reentrant=False)
        return self.head(checkpoint(self.b, x, use_reentrant=True))


@torch.jit.script
def hard_mish(x: Tensor) -> Tensor:
    """Return x * clip((x + 2) / 2, 0, 1)."""
    return x * (x + 2).clamp(min=0, max=2) * 0.5


class Scripted(nn.Module):
    """A scripted function between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Any:
        return self.conv2(hard_mish(self.conv1(x)))
