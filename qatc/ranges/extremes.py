"""Ranges that end at values seen: the extremes, the greatest magnitude, moving averages of a batch's extremes."""

import torch
from torch import Tensor
from torch.distributed import ReduceOp

from qatc.ranges.base import Range, RangeEstimator, all_ranks
from qatc.spec import QuantSpec


class MinMax(RangeEstimator):
    """The least and greatest value of all batches (Jacob et al., arXiv:1712.05877, section 3)."""

    low: Tensor
    high: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels)
        self.register_buffer("low", torch.full((channels,), torch.nan))
        self.register_buffer("high", torch.full((channels,), torch.nan))

    def collect(self, x: Tensor) -> None:
        """Widen the range to hold the batch."""
        low, high = self._extremes(x)
        # fmin and fmax ignore NaN: what was not seen yet, and what is not finite.
        torch.fmin(self.low, low, out=self.low)
        torch.fmax(self.high, high, out=self.high)

    def range(self) -> Range:
        """Return the extremes."""
        return self._found(self.low, self.high)

    def reduce(self) -> None:
        """Take the extremes of all ranks."""
        if all_ranks():
            for state, op, nothing in ((self.low, ReduceOp.MIN, torch.inf), (self.high, ReduceOp.MAX, -torch.inf)):
                joined = torch.where(state.isnan(), nothing, state)
                torch.distributed.all_reduce(joined, op)
                state.copy_(torch.where(joined.isinf(), torch.nan, joined))

    def _extremes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = torch.aminmax(self._rows(x), dim=1)
        good = low.isfinite() & high.isfinite()
        return torch.where(good, low, torch.nan), torch.where(good, high, torch.nan)


class AbsMax(MinMax):
    """The greatest magnitude of all batches, to both sides; from zero up where the codes are unsigned."""

    def range(self) -> Range:
        """Return the range from minus that magnitude, or 0, to it."""
        magnitude = torch.maximum(self.low.abs(), self.high.abs())
        return self._found(-magnitude if self.spec.signed else torch.zeros_like(magnitude), magnitude)


class MovingAverage(RangeEstimator):
    """Exponential moving averages of each batch's extremes, without the bias towards their start at zero.

    After n batches the average is divided by 1 - (1 - momentum)^n (Kingma and Ba, arXiv:1412.6980, section 3), so that
    the first batch counts whole and none that come soon after is lost in it.
    """

    low: Tensor
    high: Tensor
    weight: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1, momentum: float = 0.01) -> None:
        super().__init__(spec, channels)
        self.momentum = momentum
        for name in ("low", "high", "weight"):  # `weight` is 1 - (1 - momentum)^n
            self.register_buffer(name, torch.zeros(channels))

    def collect(self, x: Tensor) -> None:
        """Move the averages towards the batch."""
        low, high = torch.aminmax(self._rows(x), dim=1)
        good = low.isfinite() & high.isfinite()
        for state, seen in ((self.low, low), (self.high, high), (self.weight, torch.ones_like(low))):
            state.copy_(torch.where(good, state.lerp(seen, self.momentum), state))

    def range(self) -> Range:
        """Return the averages; 0 / 0 while nothing was seen."""
        return self._found(self.low / self.weight, self.high / self.weight)

    def reduce(self) -> None:
        """Take the mean over the ranks, each weighed by the batches it saw."""
        if all_ranks():
            for state in (self.low, self.high, self.weight):
                torch.distributed.all_reduce(state, ReduceOp.AVG if _averages() else ReduceOp.SUM)
                if not _averages():
                    state /= torch.distributed.get_world_size()


def _averages() -> bool:
    return torch.distributed.get_backend() == "nccl"  # gloo has no mean
