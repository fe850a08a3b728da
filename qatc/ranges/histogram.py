"""Histograms that grow with their data, and the ranges that are read off them."""

import torch
from torch import Tensor

from qatc.ranges.base import Range, RangeEstimator
from qatc.ranks import all_ranks, join
from qatc.spec import QuantSpec

# Bins on each side of zero; of a channel, which has few values among many channels, as many a code.
_SIDE, _BINS_PER_CODE = 4096, 16


class Histogram(RangeEstimator):
    """Counts of values in bins of a power-of-two width, [channels, 2 * side], the middle at zero.

    Where a batch reaches beyond the last bin the width doubles and pairs of bins become one: exactly, since the edges
    of the wider bins are edges of the narrower. So the counts do not depend on the order of batches, nor on which rank
    saw them. Between a quarter and all of the bins on each side that holds values are in use.
    """

    counts: Tensor
    exponent: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1, side: int | None = None) -> None:
        super().__init__(spec, channels)
        self.side = side = side or (_SIDE if channels == 1 else min(_SIDE, _BINS_PER_CODE << (spec.bits - 1)))
        self.register_buffer("counts", torch.zeros(channels, 2 * side, dtype=torch.int64))
        self.register_buffer("exponent", torch.full((channels,), -126.0))  # the width is 2 ** exponent
        self.register_buffer("low", torch.full((channels,), torch.nan))
        self.register_buffer("high", torch.full((channels,), torch.nan))

    def collect(self, x: Tensor) -> None:
        """Count the values of the batch that are finite."""
        rows = self._rows(x)
        good = rows.isfinite()
        magnitude = torch.where(good, rows.abs(), 0.0).amax(1)
        self._widen(self._exponent_for(magnitude))
        places = torch.floor(torch.where(good, rows, 0.0) / torch.exp2(self.exponent)[:, None]).long() + self.side
        places.clamp_(0, 2 * self.side - 1)
        self.counts.scatter_add_(1, places, good.to(self.counts.dtype))
        torch.fmin(self.low, torch.where(good, rows, torch.inf).amin(1).nan_to_num(posinf=torch.nan), out=self.low)
        torch.fmax(self.high, torch.where(good, rows, -torch.inf).amax(1).nan_to_num(neginf=torch.nan), out=self.high)

    def reduce(self) -> None:
        """Add up the counts of all ranks, at the widest bins of any."""
        if not all_ranks():
            return
        widest = self.exponent.clone()
        torch.distributed.all_reduce(widest, torch.distributed.ReduceOp.MAX)
        self._widen(widest)
        torch.distributed.all_reduce(self.counts)
        join([(self.low, "least"), (self.high, "greatest")])

    def range(self) -> Range:
        """Return the extremes: what a histogram that nothing is cut off covers."""
        return self._found(self.low, self.high)

    def centres(self) -> Tensor:
        """Return the middle of each bin, [channels, 2 * side]."""
        numbers = torch.arange(-self.side, self.side, device=self.counts.device) + 0.5
        return numbers * torch.exp2(self.exponent)[:, None]

    def _exponent_for(self, magnitude: Tensor) -> Tensor:
        """Return the exponent of the least width whose bins reach beyond a magnitude."""
        exponent = torch.frexp(magnitude)[1].float() - torch.log2(torch.tensor(float(self.side)))
        return torch.where(magnitude > 0, exponent, self.exponent)

    def _widen(self, exponent: Tensor) -> None:
        if not bool(self.counts.any()):
            self.exponent.copy_(torch.maximum(self.exponent, exponent))
        for channel in torch.nonzero(exponent > self.exponent).flatten().tolist():
            steps = int(exponent[channel] - self.exponent[channel])
            counts = self.counts[channel]
            reach = min(steps, self.side.bit_length())  # then each side is one bin
            for _ in range(reach):
                joined = counts.view(-1, 2).sum(1)
                counts = torch.zeros_like(counts)
                counts[self.side // 2 : self.side // 2 + self.side] = joined
            self.counts[channel] = counts
            self.exponent[channel] = exponent[channel]
