"""Ranges that leave out the outermost values."""

from typing import ClassVar

import torch
from torch import Tensor

from qatc.ranges.base import Range
from qatc.ranges.histogram import Histogram
from qatc.spec import QuantSpec


class Percentile(Histogram):
    """The range that leaves out a share of the values at each end (Wu et al., arXiv:2004.09602, section 5.1).

    `percent` is what stays: of 99.99, 0.005 % go at each end; where the codes are unsigned, or the grid symmetric, 0.01
    % of the greatest magnitudes. Exact to a bin's width.
    """

    option: ClassVar[str | None] = "percent"

    def __init__(self, spec: QuantSpec, channels: int = 1, side: int | None = None, percent: float = 99.99) -> None:
        super().__init__(spec, channels, side)
        if not 0 < percent <= 100:
            raise ValueError(f"a percentage is above 0 and at most 100, not {percent:g}")
        self.percent = percent

    def range(self) -> Range:
        """Return the range between the edges of the bins where the shares end, within the extremes."""
        if self.spec.symmetric:
            high = self._reach(self._magnitudes(), 1 - self.percent / 100)
            high = torch.minimum(high, torch.maximum(self.low.abs(), self.high.abs()))
            return self._found(-high if self.spec.signed else torch.zeros_like(high), high)
        share = (1 - self.percent / 100) / 2
        below = self.counts[:, : self.side].flip(1)
        above = self.counts[:, self.side :]
        total = self.counts.sum(1, keepdim=True)
        high = self._reach(above, share, total)
        low = -self._reach(below, share, total)
        return self._found(torch.maximum(low, self.low), torch.minimum(high, self.high))

    def _magnitudes(self) -> Tensor:
        """Return the counts by magnitude, [channels, side]."""
        return self.counts[:, self.side :] + self.counts[:, : self.side].flip(1)

    def _reach(self, counts: Tensor, share: float, total: Tensor | None = None) -> Tensor:
        """Return how far from zero the bins [channels, side] reach that hold all but a share of the values."""
        total = counts.sum(1, keepdim=True) if total is None else total
        beyond = counts.flip(1).cumsum(1, dtype=torch.float64).flip(1)
        needed = (beyond > share * total.double()).sum(1)
        return needed * torch.exp2(self.exponent)
