"""The range that LSQ begins with: from the mean magnitude, of an asymmetric grid from the least error."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from qatc.ranges.base import Range, RangeEstimator
from qatc.ranges.least_error import MSE
from qatc.ranks import Join
from qatc.spec import QuantSpec


class MeanMagnitude(RangeEstimator):
    """The range of a grid with the step 2 * mean|x| / sqrt(qmax) (LSQ, Esser et al., arXiv:1902.08153, section 2.1).

    An asymmetric grid, which has no mean magnitude about its zero point, takes the range of the least mean square error
    (as LSQ+ does, arXiv:2004.09576, section 3.2). Of the extremes, at 3 bits, most values of a linear layer would begin
    at zero and stay there.
    """

    total: Tensor
    count: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1, side: int | None = None) -> None:
        super().__init__(spec, channels)
        self.register_buffer("total", torch.zeros(channels))
        self.register_buffer("count", torch.zeros(channels))
        self.asymmetric = None if spec.symmetric else MSE(spec, channels, side)

    def collect(self, x: Tensor) -> None:
        """Add up the magnitudes of the batch, unless one is not finite."""
        if self.asymmetric is not None:
            self.asymmetric.collect(x)
            return
        rows = self._rows(x)
        total = rows.abs().sum(1)
        good = total.isfinite()
        self.total += torch.where(good, total / rows.shape[1], 0.0)
        self.count += good

    def range(self) -> Range:
        """Return the range of the step; the mean over batches weighs each the same."""
        if self.asymmetric is not None:
            return self.asymmetric.range()
        reach = 2 * self.total / self.count * math.sqrt(self.spec.qmax)
        return self._found(-reach if self.spec.signed else torch.zeros_like(reach), reach)

    def states(self) -> Iterable[tuple[Tensor, Join]]:
        """Return sums and counts; the ratio of their means is that of the sums."""
        return (self.total, "mean"), (self.count, "mean")

    def reduce(self) -> None:
        """Join what the ranks collected."""
        super().reduce() if self.asymmetric is None else self.asymmetric.reduce()
