"""Ops with a parameter of the network's own, which is a keyword argument of forward."""

import torch.nn.functional as F
from torch import Tensor, nn


class PReLU(nn.Module):
    """x where it is positive, its product with a learned factor (one, or one a channel) elsewhere."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the values, in x's shape."""
        return F.prelu(x, weight)


class Embedding(nn.Module):
    """A row of a table for each number."""

    def __init__(self, padding_idx: int | None = None) -> None:
        super().__init__()
        self.padding_idx = padding_idx

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the rows of weight [rows, width] that x [...] names, [..., width]."""
        return F.embedding(x, weight, self.padding_idx)
