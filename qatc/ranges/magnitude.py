"""The range that LSQ begins with, from the mean magnitude."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from qatc.ranges.base import Range, RangeEstimator
from qatc.ranks import Join
from qatc.spec import QuantSpec


class MeanMagnitude(RangeEstimator):
    """The range of a grid with the step 2 * mean|x| / sqrt(qmax) (LSQ, Esser et al., arXiv:1902.08153, section 2.1).

    An asymmetric grid covers the least and greatest value instead: it has no mean magnitude about its zero point.
    """

    total: Tensor
    count: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels)
        for name, start in (("total", 0.0), ("count", 0.0), ("low", torch.nan), ("high", torch.nan)):
            self.register_buffer(name, torch.full((channels,), start))

    def collect(self, x: Tensor) -> None:
        """Add up the magnitudes of the batch, unless one is not finite."""
        rows = self._rows(x)
        total, low, high = rows.abs().sum(1), rows.amin(1), rows.amax(1)
        good = total.isfinite()
        self.total += torch.where(good, total / rows.shape[1], 0.0)
        self.count += good
        self.low.copy_(torch.fmin(self.low, torch.where(good, low, torch.nan)))
        self.high.copy_(torch.fmax(self.high, torch.where(good, high, torch.nan)))

    def range(self) -> Range:
        """Return the range of the step, or the extremes; the mean over batches weighs each the same."""
        if not self.spec.symmetric:
            return self._found(self.low, self.high)
        reach = 2 * self.total / self.count * math.sqrt(self.spec.qmax)
        return self._found(-reach if self.spec.signed else torch.zeros_like(reach), reach)

    def states(self) -> Iterable[tuple[Tensor, Join]]:
        """Return sums and extremes; of sums and counts the ratio of the means is that of the sums."""
        return (self.total, "mean"), (self.count, "mean"), (self.low, "least"), (self.high, "greatest")
