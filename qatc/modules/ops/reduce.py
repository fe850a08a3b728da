"""Reductions over some dimensions."""

import torch
from torch import Tensor, nn


class _Reduction(nn.Module):
    def __init__(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> None:
        super().__init__()
        self.dim, self.keepdim = dim, keepdim

    def dims(self, x: Tensor) -> int | tuple[int, ...]:
        """Return the dimensions, all of them written out: torch's exporter fails on a missing list."""
        return tuple(range(x.dim())) if self.dim is None else self.dim


class Mean(_Reduction):
    """The mean over some dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean."""
        return torch.mean(x, self.dims(x), self.keepdim)


class Sum(_Reduction):
    """The sum over some dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        return torch.sum(x, self.dims(x), self.keepdim)


class Amax(_Reduction):
    """The greatest value over some dimensions; its gradient is shared by all that reach it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the maximum."""
        return torch.amax(x, self.dims(x), self.keepdim)


class Amin(_Reduction):
    """The least value over some dimensions; its gradient is shared by all that reach it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the minimum."""
        return torch.amin(x, self.dims(x), self.keepdim)
