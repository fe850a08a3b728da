"""Ranges that end at values seen: the extremes, the greatest magnitude, moving averages of a batch's extremes."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from qatc import native
from qatc.ranges.base import Range, RangeEstimator, extremes
from qatc.ranks import Join
from qatc.spec import QuantSpec


class MinMax(RangeEstimator):
    """The least and greatest value of all batches (Jacob et al., arXiv:1712.05877, section 3)."""

    cheap: ClassVar[bool] = True
    low: Tensor
    high: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels)
        self.register_buffer("low", torch.full((channels,), torch.nan))
        self.register_buffer("high", torch.full((channels,), torch.nan))

    def collect(self, x: Tensor) -> None:
        """Widen the range to hold the batch."""
        low, high = extremes(x.detach(), self.spec)
        good = _finite(low, high)
        # fmin and fmax ignore NaN: what was not seen yet, and what is not finite.
        self.low.copy_(torch.fmin(self.low, torch.where(good, low, torch.nan)))
        self.high.copy_(torch.fmax(self.high, torch.where(good, high, torch.nan)))

    def range(self) -> Range:
        """Return the extremes."""
        return self._found(self.low, self.high)

    def states(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the extremes."""
        return (self.low, "least"), (self.high, "greatest")


class AbsMax(MinMax):
    """The greatest magnitude of all batches, to both sides; where the codes are unsigned, the greatest value."""

    def range(self) -> Range:
        """Return the range from minus that magnitude, or 0, to it."""
        if not self.spec.signed:
            return self._found(torch.zeros_like(self.high), self.high)
        magnitude = torch.maximum(-self.low, self.high)
        return self._found(-magnitude, magnitude)


class MovingAverage(RangeEstimator):
    """Exponential moving averages of each batch's extremes, without the bias towards their start at zero.

    After n batches the average is divided by 1 - (1 - momentum)^n (Kingma and Ba, arXiv:1412.6980, section 3), so that
    the first batch counts whole and none that come soon after is lost in it.
    """

    option: ClassVar[str | None] = "momentum"
    cheap: ClassVar[bool] = True
    averages: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1, momentum: float = 0.01) -> None:
        super().__init__(spec, channels)
        if not 0 < momentum <= 1:
            raise ValueError(f"a momentum is above 0 and at most 1, not {momentum:g}")
        self.momentum = momentum
        # The average of the least value, of the greatest, and 1 - (1 - momentum)^n.
        self.register_buffer("averages", torch.zeros(3, channels))

    def collect(self, x: Tensor) -> None:
        """Move the averages towards the batch."""
        if self.spec.axis is None and native.takes(x) and native.takes(self.averages):
            native.follow(x, self.averages, self.momentum, self.spec)
            return
        low, high = extremes(x.detach(), self.spec)
        seen = torch.stack([low, high, torch.ones_like(low)])
        self.averages.lerp_(torch.where(_finite(low, high), seen, self.averages), self.momentum)

    def range(self) -> Range:
        """Return the averages; 0 / 0 while nothing was seen."""
        low, high, weight = self.averages if self.spec.axis is not None else self.averages.view(3)
        return Range(low / weight, high / weight)

    def states(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the averages: of the ranks' the mean, each weighed by the batches it saw."""
        return [(self.averages, "mean")]


def _finite(low: Tensor, high: Tensor) -> Tensor:
    """Return where both ends are finite (`isfinite` takes ten times as long on a few values)."""
    return (high - low) < torch.inf
