"""Modules for what models write as functions and operators, so that passes see modules alone.

Tensors are arguments of `forward`, everything else is an attribute; each computes exactly what the function did.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Add(nn.Module):
    """x + y."""

    def forward(self, x: Tensor, y: Any) -> Tensor:
        """Return the sum, broadcast."""
        return torch.add(x, y)


class Sub(nn.Module):
    """x - y."""

    def forward(self, x: Any, y: Any) -> Tensor:
        """Return the difference, broadcast."""
        result: Tensor = x - y
        return result


class Mul(nn.Module):
    """x * y."""

    def forward(self, x: Tensor, y: Any) -> Tensor:
        """Return the product, broadcast."""
        return torch.mul(x, y)


class Div(nn.Module):
    """x / y."""

    def forward(self, x: Any, y: Any) -> Tensor:
        """Return the quotient, broadcast."""
        result: Tensor = x / y
        return result


class MatMul(nn.Module):
    """x @ y, both computed by the network."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the matrix product over the last two dimensions."""
        return torch.matmul(x, y)


class Concat(nn.Module):
    """Concatenation along a dimension."""

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the tensors in one."""
        return torch.cat(list(tensors), self.dim)


class Mean(nn.Module):
    """The mean over some dimensions."""

    def __init__(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> None:
        super().__init__()
        self.dim, self.keepdim = dim, keepdim

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean."""
        return torch.mean(x, self.dim, self.keepdim)


class Reshape(nn.Module):
    """Another shape; one that the network computes is an argument of forward."""

    def __init__(self, shape: int | tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, shape: Any = None) -> Tensor:
        """Return x in that shape."""
        wanted = self.shape if shape is None else shape
        return torch.reshape(x, wanted if isinstance(wanted, tuple | list) else (wanted,))


class Permute(nn.Module):
    """The dimensions in another order."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """Return x permuted."""
        return torch.permute(x, self.dims)


class Transpose(nn.Module):
    """Two dimensions swapped."""

    def __init__(self, dim0: int, dim1: int) -> None:
        super().__init__()
        self.dim0, self.dim1 = dim0, dim1

    def forward(self, x: Tensor) -> Tensor:
        """Return x transposed."""
        return torch.transpose(x, self.dim0, self.dim1)


class Squeeze(nn.Module):
    """Without a dimension of size 1, or without all of them."""

    def __init__(self, dim: int | tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return x without them."""
        return torch.squeeze(x) if self.dim is None else torch.squeeze(x, self.dim)


class Unsqueeze(nn.Module):
    """With one more dimension, of size 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return x with it."""
        return torch.unsqueeze(x, self.dim)


class Interpolate(nn.Module):
    """`torch.nn.functional.interpolate`; a size that the network computes is an argument of forward."""

    def __init__(
        self,
        size: int | tuple[int, ...] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
        antialias: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.recompute_scale_factor, self.antialias = (
            align_corners,
            recompute_scale_factor,
            antialias,
        )

    def forward(self, x: Tensor, size: Any = None) -> Tensor:
        """Return x resized, [N, C, ...]."""
        return F.interpolate(
            x, self.size if size is None else size, self.scale_factor, self.mode, self.align_corners,
            self.recompute_scale_factor, self.antialias,
        )  # fmt: skip
