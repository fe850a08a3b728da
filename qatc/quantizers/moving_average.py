"""Moving averages of a batch's range."""

from collections.abc import Iterable

import torch
from torch import Tensor

from qatc.quantizers.grid import range_of
from qatc.quantizers.minmax import MinMax
from qatc.ranks import Join


class MovingAverage(MinMax):
    """An exponential moving average of the batches' least and greatest value, begun by what was recorded.

    The first batch (or the recording) sets the average, so there is no start from zero to correct for
    (cf. Jacob et al., arXiv:1712.05877, section 3.1).
    """

    momentum = 0.01

    def observed(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the averages."""
        return (self.low, "mean"), (self.high, "mean")

    def observe(self, x: Tensor, site: int) -> None:
        """Move the site's range towards that of the batch, but for one that overflowed."""
        low, high = range_of(x, None)
        for state, seen in ((self.low, low), (self.high, high)):
            old = torch.where(torch.isnan(state[site]), seen, state[site])
            state[site] = torch.where(torch.isfinite(seen), old + self.momentum * (seen - old), state[site])
