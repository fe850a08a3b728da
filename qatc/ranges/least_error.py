"""Ranges by search: the one whose grid comes nearest to the values seen."""

import torch
from torch import Tensor

from qatc.grid import Grid, grid_from_range
from qatc.ranges.base import Range
from qatc.ranges.histogram import Histogram


class MSE(Histogram):
    """The range of the least mean square error (Banner et al., arXiv:1810.05723, section 3, by search).

    A symmetric grid is tried at 100 amplitudes up to the greatest magnitude, an asymmetric one with its ends at 21
    parts each of the least and the greatest value. Each bin counts as its middle.
    """

    clipping = 1.0  # how much the error of a clipped value counts

    def range(self) -> Range:
        """Return the range that was best."""
        candidates = self._candidates()
        best = torch.stack([self._error(*ends) for ends in candidates]).argmin(0, keepdim=True)
        low, high = (torch.stack(ends).gather(0, best)[0] for ends in zip(*candidates, strict=True))
        unseen = self.low.isnan()
        return self._found(torch.where(unseen, torch.nan, low), torch.where(unseen, torch.nan, high))

    def _candidates(self) -> list[tuple[Tensor, Tensor]]:
        """Return the ends [channels] of the ranges to try, the widest first, so that it wins where all are as good."""
        low, high = self.low.nan_to_num().clamp(max=0.0), self.high.nan_to_num().clamp(min=0.0)
        if self.spec.symmetric:
            amplitude = torch.maximum(-low, high) if self.spec.signed else high
            least = -1.0 if self.spec.signed else 0.0
            return [(least * amplitude * k / 100, amplitude * k / 100) for k in range(100, 0, -1)]
        parts = [k / 20 for k in range(20, -1, -1)]
        return [(low * a, high * b) for a in parts for b in parts if a or b]

    def _error(self, low: Tensor, high: Tensor) -> Tensor:
        """Return the weighted sum of squared errors, [channels]."""
        grid = Grid(*(v[:, None] for v in grid_from_range(low, high, self.spec)))
        values = self.centres()
        levels = torch.round(values / grid.scale) + grid.zero_point
        kept = levels.clamp(self.spec.qmin, self.spec.qmax)
        error = ((kept - grid.zero_point) * grid.scale - values).square()
        return (self.counts * torch.where(levels == kept, 1.0, self.clipping) * error).double().sum(1)


class SQNR(MSE):
    """The range of the best ratio of signal to noise, with the noise of clipped values counted three times.

    AIMET's scheme "tf_enhanced" (Nagel et al., arXiv:2106.08295, section 3.1; the factor is its gamma).
    """

    clipping = 3.0
