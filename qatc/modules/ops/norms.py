"""Normalisations whose parameters, if any, are the network's own: keyword arguments of forward."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Zero mean and unit variance over the last dimensions (Ba et al., arXiv:1607.06450)."""

    def __init__(self, normalized_shape: tuple[int, ...], eps: float = 1e-5) -> None:
        super().__init__()
        self.normalized_shape, self.eps = normalized_shape, eps

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return x normalized, in its shape."""
        return F.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class RMSNorm(nn.Module):
    """Unit mean square over the last dimensions (Zhang and Sennrich, arXiv:1910.07467)."""

    def __init__(self, normalized_shape: tuple[int, ...], eps: float | None = None) -> None:
        super().__init__()
        self.normalized_shape, self.eps = normalized_shape, eps

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Return x normalized, in its shape."""
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class GroupNorm(nn.Module):
    """Zero mean and unit variance over groups of channels (Wu and He, arXiv:1803.08494)."""

    def __init__(self, num_groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_groups, self.eps = num_groups, eps

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return x normalized, [N, C, ...]."""
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


class InstanceNorm(nn.Module):
    """Zero mean and unit variance over the positions of each channel (Ulyanov et al., arXiv:1607.08022)."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Return x normalized, [N, C, ...]."""
        return F.instance_norm(x, weight=weight, bias=bias, eps=self.eps)


class Normalize(nn.Module):
    """`torch.nn.functional.normalize`: unit p-norm along a dimension."""

    def __init__(self, p: float = 2.0, dim: int | tuple[int, ...] = 1, eps: float = 1e-12) -> None:
        super().__init__()
        self.p, self.dim, self.eps = p, dim, eps

    def forward(self, x: Tensor) -> Tensor:
        """Return x divided by its norm, in its shape."""
        norm = torch.linalg.vector_norm(x, self.p, self.dim, keepdim=True)
        normalized: Tensor = x / norm.clamp_min(self.eps)
        return normalized
