"""Quantizers whose grid covers a range that is estimated: one that follows the data, or one that stays."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qatc import native
from qatc.errors import ConfigError, QatcWarning
from qatc.grid import MIN_SCALE, Grid, grid_from_range
from qatc.quantizers.base import Quantizer, recomputing, union
from qatc.quantizers.fake_quantize import (
    fake_quantize,
    fake_quantize_covered,
    fake_quantize_tracked,
    fake_quantize_with_bias,
)
from qatc.quantizers.kernels import Tracking
from qatc.quantizers.weight import WeightQuantizer
from qatc.ranges import RANGE_ESTIMATORS, Range
from qatc.ranges.base import extremes
from qatc.ranges.extremes import MovingAverage
from qatc.ranks import Join
from qatc.spec import QuantSpec

# A range that ends exactly at a value seen makes ratios of scales small fractions, so that sums and means of codes
# fall on ties, which kernels break one way or the other.
_MARGIN = 1 + 2.0**-11


def margin(found: Range, spec: QuantSpec) -> Range:
    """Return the range of an activation, a little wider unless scales are powers of two."""
    factor = _margin(spec)
    return found if factor == 1 else Range(found.low * factor, found.high * factor)


def _margin(spec: QuantSpec) -> float:
    return 1.0 if spec.pow2 else _MARGIN


class Fixed(Quantizer):
    """The range that was recorded, for good.

    Training that begins without one takes that of its first batch, with a warning.
    """

    low: Tensor
    high: Tensor

    def __init__(self, spec: QuantSpec, range_name: str | None = None, sites: int = 1) -> None:
        super().__init__(spec, range_name, sites)
        self.register_buffer("low", torch.full((), torch.nan))
        self.register_buffer("high", torch.full((), torch.nan))

    def observe(self, x: Tensor, site: int) -> None:
        """Keep the range; without one, that of this batch."""
        if not self.ready and self.enabled:
            warnings.warn(
                "training began without the ranges of fixed quantizers: they are those of its first batch, for good\n"
                "  try: qatc.calibrate(model, batches) before it, or record=... in the schedule",
                QatcWarning,
                stacklevel=2,
            )
            super().observe(x, site)

    def start(self, found: Range) -> None:
        """Keep the range."""
        self.low.copy_(found.low)
        self.high.copy_(found.high)

    def covers(self) -> list[Range]:
        """Return the range, without the margin that its grid has."""
        return [Range(self.low, self.high)]

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the grid that covers the range."""
        return grid_from_range(*margin(Range(self.low, self.high), self.spec), self.spec, floor)


class Tracked(Quantizer):
    """The range of what was seen, in recording and in training; the grid covers those of all call sites."""

    always_records: ClassVar[bool] = True

    def __init__(self, spec: QuantSpec, range_name: str | None = None, sites: int = 1) -> None:
        super().__init__(spec, range_name, sites)
        self.recorders = nn.ModuleList(self.estimators(torch.empty(0)))
        if not all(recorder.cheap for recorder in self.recorders):
            followers = ", ".join(name for name, kind in RANGE_ESTIMATORS.items() if kind.cheap)
            raise ConfigError(
                f"range estimator {self.range_name!r} is too dear to follow every training step",
                remedy=f"take it with the quantizer 'fixed' or a learned one, or one of: {followers}",
            )

    def forward(self, x: Tensor, site: int = 0, **given: Any) -> Tensor:
        """Return x on its grid; on a CPU a training step follows and quantizes it in one call."""
        plain = self.ste == "masked" and not any(given.values())
        if plain and self.moves and self.quantizes and native.takes(x) and not recomputing():
            averages = self._averages()
            if averages is not None:
                how = Tracking(averages.momentum, _margin(self.spec))
                return fake_quantize_tracked(x, averages.averages, how, self.spec, overwrite=self.overwrites)
        return super().forward(x, site, **given)

    def _averages(self) -> MovingAverage | None:
        """Return the only estimator, if it is the one that the native kernels know, and their device's."""
        first = self.recorders[0]
        if self.sites > 1 or self.spec.pow2 is not None or not isinstance(first, MovingAverage):
            return None
        return first if native.takes(first.averages) else None

    def settle(self) -> bool:
        """Join what the ranks recorded; say whether there is a range."""
        finite = self._reduced()
        self._ready = False
        return finite and self.ready

    def observe(self, x: Tensor, site: int) -> None:
        """Follow the batch; one that overflowed changes nothing."""
        self.recorder(site).collect(x)

    def covers(self) -> list[Range]:
        """Return the range of every call site, without the margin that their grid has."""
        return [self.recorder(site).range() for site in range(self.sites)]

    def cover(self, ranges: Sequence[Range]) -> None:
        """Let the estimators have seen tensors of these ranges; one range is that of every call site."""
        for site, found in enumerate(ranges if len(ranges) == self.sites else [union(list(ranges))] * self.sites):
            self.recorder(site).collect(torch.stack(found))
        self._ready = False

    def observed(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the estimators' state."""
        return [state for site in range(self.sites) for state in self.recorder(site).states()]

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the grid that covers every site."""
        averages = None if floor is not None else self._averages()
        if averages is not None:
            return Grid(*native.averaged_grid(averages.averages, _margin(self.spec), self.spec, MIN_SCALE))
        return grid_from_range(*margin(self.recorded(), self.spec), self.spec, floor)

    def _has_range(self) -> bool:
        found = self.recorded()
        return bool(found.low.isfinite().all() and found.high.isfinite().all())


class WeightTracked(WeightQuantizer):
    """The range of the weights as they are at each forward: no state, so nothing can be stale."""

    @property
    def follows_channels(self) -> bool:
        """Whether a factor per channel changes no code: so it is with free scales per channel."""
        return self.spec.axis is not None and self.spec.pow2 is None and self.range_name == "absmax"

    def with_bias(self, weight: Tensor, bias: Tensor, scale: Tensor, gain: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return weight and bias as they deploy; on a CPU by one call."""
        alike = self.spec.axis == 0 and self.spec.symmetric and bias.shape == weight.shape[:1]
        if (
            alike
            and self.follows_channels
            and all(map(native.takes, (weight, bias, scale)))
            and not self._forward_hooks
        ):
            return fake_quantize_with_bias(weight, bias, scale, self.spec)
        return super().with_bias(weight, bias, scale, gain)

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the grid of x's own range; x has its gain already."""
        return grid_from_range(*self._range(x), self.spec, floor)

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Return x fake-quantized; where the range covers it, none of it is clipped."""
        covers = self.range_name == "absmax" and self.spec.symmetric and self.spec.pow2 in (None, "up")
        return fake_quantize_covered(x, grid, self.spec) if covers else fake_quantize(x, grid, self.spec)

    def _range(self, x: Tensor) -> Range:
        if self.range_name == "absmax":  # at every step of every layer: without a module made for it
            low, high = extremes(x, self.spec)
            return Range(low, high) if self.spec.axis is not None else Range(low[0], high[0])
        return self.range_of(x)


class WeightFixed(WeightQuantizer):
    """The range that the weight had when it was prepared, for good; that of the weight before a BatchNorm is folded in.

    `gain` takes a range per channel to the folded weight.
    """

    low: Tensor
    high: Tensor

    def __init__(self, spec: QuantSpec, range_name: str | None = None, sites: int = 1) -> None:
        super().__init__(spec, range_name, sites)
        self.register_buffer("low", torch.empty(0))
        self.register_buffer("high", torch.empty(0))

    def begin(self, weight: Tensor) -> None:
        """Set the range from the weight."""
        self.low, self.high = (end.clone() for end in self.range_of(weight))
        self._ready = False

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the grid of the range."""
        scale = gain if gain is not None and self.spec.axis is not None else 1.0
        return grid_from_range(self.low * scale, self.high * scale, self.spec, floor)
