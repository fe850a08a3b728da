"""Hand-written networks whose weights are shared, computed, frozen or otherwise not a layer's own."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, weight_norm

from tools.zoo_suites.classics_images import conv_bn_relu


class TiedWeights(nn.Module):
    """The embedding's weight is the output layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(50, 16), nn.Linear(16, 16)
        self.output = nn.Linear(16, 50, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Any:
        return self.output(F.gelu(self.body(self.embedding(tokens))))


class WeightNormHook(nn.Module):
    """weight_norm by hooks: the weight is a plain attribute, computed before every call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = weight_norm(nn.Conv1d(4, 8, 3, padding=1))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(F.leaky_relu(self.conv(x), 0.1).mean(2))


class Parametrized(nn.Module):
    """weight_norm and spectral_norm as parametrizations of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
        self.conv2 = parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.fc = parametrizations.weight_norm(nn.Linear(8, 4), dim=0)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


class Symmetric(nn.Module):
    """A parametrization of one's own: a weight that is always symmetric."""

    class Mirror(nn.Module):
        """The upper triangle, mirrored."""

        def forward(self, x: Tensor) -> Tensor:
            return x.triu() + x.triu(1).transpose(-1, -2)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)
        parametrize.register_parametrization(self.first, "weight", self.Mirror())

    def forward(self, x: Tensor) -> Any:
        return self.second(F.relu(self.first(x)))


class FrozenBatchNorm2d(nn.Module):
    """A BatchNorm all of whose tensors are buffers, as detectors write it."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.reshape(1, -1, 1, 1) * (self.running_var.reshape(1, -1, 1, 1) + self.eps).rsqrt()
        return x * scale + (self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale)


class FrozenNorm(nn.Module):
    """FrozenBatchNorm2d behind convolutions, with ReLU and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), FrozenBatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), FrozenBatchNorm2d(8)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + x)


class BufferArithmetic(nn.Module):
    """Buffers and parameters in arithmetic: the image normalised, a factor per channel, a learned temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1), persistent=False)
        self.conv, self.head = conv_bn_relu(3, 8), nn.Conv2d(8, 4, 1)
        self.scale, self.temperature = nn.Parameter(torch.rand(8, 1, 1) + 0.5), nn.Parameter(torch.tensor(0.3))
        self.mean: Tensor
        self.deviation: Tensor

    def forward(self, x: Tensor) -> Any:
        x = (x - self.mean) / self.deviation
        x = self.conv(x) * self.scale
        return self.head(x) * self.temperature.exp()


class MixedTypes(nn.Module):
    """Integer and boolean inputs beside a float one: an embedding, a mask as a factor, comparisons."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.project = nn.Embedding(20, 8), nn.Linear(4, 8)
        self.mix, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor, features: Tensor, valid: Tensor) -> Any:
        x = torch.cat([self.embedding(tokens), self.project(features)], dim=-1)
        x = F.relu(self.mix(x)) * valid.unsqueeze(-1)
        count = valid.sum(dim=1, keepdim=True).clamp(min=1)
        return self.head(x.sum(dim=1) / count.to(x.dtype)), tokens.gt(9)
