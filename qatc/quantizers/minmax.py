"""Min-max ranges: of the weights as they are, or of everything that an activation was seen to hold."""

from collections.abc import Iterable

import torch
from torch import Tensor

from qatc.quantizers.base import Quantizer
from qatc.quantizers.grid import Grid, grid_from_range, range_of
from qatc.ranks import Join
from qatc.spec import QuantSpec


class WeightMinMax(Quantizer):
    """The range of the weights as they are at each forward: no state, so nothing can be stale."""

    def record(self, x: Tensor, site: int) -> None:
        """Do nothing: the range is that of the weights at the time."""

    def observe(self, x: Tensor, site: int) -> None:
        """Do nothing, likewise."""

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the grid of x's own range; x has its gain already."""
        return grid_from_range(*range_of(x, self.spec.axis), self.spec, floor)


# A range that ends exactly at a value seen makes ratios of scales small fractions, so that sums and means of codes
# fall on ties, which kernels break one way or the other.
_MARGIN = 1 + 2.0**-11


class MinMax(Quantizer):
    """The least and greatest value seen, per call site; the grid covers the union of the sites."""

    low: Tensor
    high: Tensor

    def __init__(self, spec: QuantSpec, sites: int = 1) -> None:
        super().__init__(spec, sites)
        self.register_buffer("low", torch.full((sites,), torch.nan))
        self.register_buffer("high", torch.full((sites,), torch.nan))

    def record(self, x: Tensor, site: int) -> None:
        """Widen the site's range to hold the batch."""
        low, high = range_of(x, None)
        # fmin and fmax ignore the NaN of a site not seen yet.
        self.low[site] = torch.fmin(self.low[site], low)
        self.high[site] = torch.fmax(self.high[site], high)

    def recorded(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the extremes."""
        return (self.low, "least"), (self.high, "greatest")

    def observed(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the extremes."""
        return self.recorded()

    def observe(self, x: Tensor, site: int) -> None:
        """Widen the site's range to hold the batch, but for one that overflowed: gradient scaling skips such steps."""
        low, high = range_of(x, None)
        self.low[site] = torch.fmin(self.low[site], torch.where(torch.isinf(low), torch.nan, low))
        self.high[site] = torch.fmax(self.high[site], torch.where(torch.isinf(high), torch.nan, high))

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the grid that covers every site."""
        margin = 1.0 if self.spec.pow2 else _MARGIN
        return grid_from_range(self.low.min() * margin, self.high.max() * margin, self.spec, floor)
