"""Small models whose weights are not a layer's own: functional, standardised, packed, tied, computed from data."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.models import conv


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape))


class FunctionalOnly(nn.Module):
    """A classifier without a single layer: every parameter is the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = parameter(8, 3, 3, 3), parameter(8)
        self.w2, self.up = parameter(4, 4, 3, 3), parameter(4, 2, 2, 2)
        self.w3, self.b3 = parameter(5, 128), parameter(5)

    def forward(self, x: Tensor) -> Any:
        y = F.relu(F.conv2d(x, self.w1, self.b1, padding="same"))
        y = F.conv2d(y, self.w2, stride=2, padding=1, groups=2)
        y = F.relu6(F.conv_transpose2d(y, self.up, stride=2))
        return F.linear(y.flatten(1), self.w3, bias=self.b3)


class Standardised(nn.Conv2d):
    """A convolution that standardises its weight (Qiao et al., arXiv:1903.10520)."""

    def forward(self, x: Tensor) -> Any:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        deviation = self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (deviation + 1e-5), self.bias, self.stride, self.padding)


class StandardisedBlock(nn.Module):
    """A residual block of such convolutions, with BatchNorm and ReLU behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.relu = Standardised(3, 4, 3, padding=1), Standardised(4, 4, 3, padding=1), nn.ReLU()
        self.bn1, self.bn2, self.head = nn.BatchNorm2d(4), nn.BatchNorm2d(4), conv(4, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.relu(self.bn1(self.stem(x)))
        return self.head(self.relu(self.bn2(self.body(x)) + x))


class Packed(nn.Module):
    """Three projections in one weight and a bias put together (BEiT), and a product with a weight [in, out] (GPT-2)."""

    k_bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.q_bias, self.v_bias = parameter(12, 3), parameter(4), parameter(4)
        self.register_buffer("k_bias", torch.zeros(4))
        self.out, self.out_bias, self.last = parameter(12, 6), parameter(6), parameter(6, 2)

    def forward(self, x: Tensor) -> Any:
        x = x.mean((2, 3))
        q, k, v = torch.cat([self.q_bias, self.k_bias, self.v_bias]).chunk(3)
        parts = [F.linear(x, w, b) for w, b in zip(self.qkv.split(4), (q, k, v), strict=True)]
        return torch.addmm(self.out_bias, torch.cat(parts, 1), self.out) @ self.last


class Parametrized(nn.Module):
    """A convolution whose weight torch computes before each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = parametrizations.weight_norm(conv(3, 4))
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        return F.relu(self.bn(self.conv(x)))


class Tied(nn.Module):
    """One weight read by two functions, and in a sum with data."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.position = parameter(3, 3, 3, 3), parameter(1, 3, 8, 8)

    def forward(self, x: Tensor) -> Any:
        y = F.conv2d(x + self.position, self.w, padding=1)
        return F.conv2d(F.relu(y), self.w * 2.0, padding=1) + self.position


class Conditional(nn.Module):
    """A convolution whose weight the network computes from its input, and one whose bias it does (CondConv)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.route, self.experts = conv(3, 3), nn.Linear(3, 2), parameter(2, 108)
        self.w = parameter(4, 4, 1, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.conv(x)
        route = self.route(x.mean((0, 2, 3)))
        y = F.conv2d(x, (route[:, None] * self.experts).sum(0).view(4, 3, 3, 3))
        return F.conv2d(y, self.w, y.mean((0, 2, 3)))
