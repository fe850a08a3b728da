"""Learned minimum and maximum: AIMET's range learning (its v1 `learned_grid_quantizer` and v2 affine quantizers)."""

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from qatc.grid import Grid, grid_from_range
from qatc.quantizers.base import Quantizer, union
from qatc.quantizers.fake_quantize import fake_quantize_learned, straight_through
from qatc.quantizers.ranged import margin
from qatc.quantizers.weight import WeightQuantizer
from qatc.ranges import Range
from qatc.spec import QuantSpec

# Keeps a range finite, and so its grid.
_LARGEST = 2.0**40


class _LearnedEnds(Quantizer):
    """A range whose ends are parameters.

    With scale (M - m) / N and zero point qmin - round(m / scale), the gradients of the ends m and M are those of the
    form with round's gradient as 1. A symmetric grid learns M alone: AIMET's gradient keeps m at -M there.

    AIMET moves the parameters so that m <= 0 <= M before each forward; here the ends are read so, and the gradient
    passes straight through, since an evaluation changes nothing.
    """

    low: nn.Parameter | None  # [1], as FSDP shards it, or [channels]
    high: nn.Parameter

    def ends(self) -> Range:
        """Return the range as it is used: finite, around zero."""
        high = self._used(self.high, 0.0, _LARGEST)
        if self.low is not None:
            return Range(self._used(self.low, -_LARGEST, 0.0), high)
        return Range(-high if self.spec.signed else torch.zeros_like(high), high)

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Return x fake-quantized; the ends learn."""
        return fake_quantize_learned(x, grid, self.spec)

    def _used(self, end: Tensor, least: float, most: float) -> Tensor:
        end = end.float()
        end = straight_through(end, end.detach().clamp(least, most))
        return end.view(()) if self.spec.axis is None else end

    def _set_ends(self, found: Range) -> None:
        amplitude = torch.maximum(-found.low, found.high) if self.spec.signed else found.high
        with torch.no_grad():
            self.high.copy_(amplitude if self.spec.symmetric else found.high)
            if self.low is not None:
                self.low.copy_(found.low)
        self._ready = False


class LearnedRange(_LearnedEnds):
    """Range learning of an activation, from the recorded range on."""

    default_range: ClassVar[str] = "sqnr"  # AIMET: training_range_learning_with_tf_enhanced_init

    def __init__(self, spec: QuantSpec, range_name: str | None = None, sites: int = 1) -> None:
        super().__init__(spec, range_name, sites)
        self.low = None if spec.symmetric else nn.Parameter(torch.full((1,), torch.nan))
        self.high = nn.Parameter(torch.full((1,), torch.nan))

    def start(self, found: Range) -> None:
        """Begin with the range."""
        self._set_ends(margin(found, self.spec))

    def covers(self) -> list[Range]:
        """Return the learned range."""
        return [Range(*(end.detach() for end in self.ends()))]

    def cover(self, ranges: Sequence[Range]) -> None:
        """Take the ranges as they are: a margin is for recorded ones."""
        self._set_ends(union(list(ranges)))

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the grid that covers the learned range."""
        return learned_grid(*self.ends(), self.spec, floor)

    def _state(self) -> list[Tensor]:
        return [self.high] if self.low is None else [self.low, self.high]


class WeightLearnedRange(WeightQuantizer, _LearnedEnds):
    """Range learning of a weight, one range per channel or one in all.

    Ranges per channel are those of the weight before a BatchNorm is folded into it; `gain` takes them to the folded
    one.
    """

    def __init__(self, spec: QuantSpec, range_name: str | None = None, sites: int = 1) -> None:
        super().__init__(spec, range_name, sites)
        self.low = None if spec.symmetric else nn.Parameter(torch.empty(0))
        self.high = nn.Parameter(torch.empty(0))

    @classmethod
    def of(cls, spec: QuantSpec, weight: Tensor, range_name: str | None = None) -> Self:
        """Return the quantizer with its range set from the weight."""
        made = cls(spec, range_name)
        found = made.range_of(weight)
        made.low = None if made.low is None else nn.Parameter(found.low.view(-1).clone())
        made.high = nn.Parameter(found.high.view(-1).clone())
        made.begin(weight)
        return made

    def begin(self, weight: Tensor) -> None:
        """Set the range from the weight."""
        self._set_ends(self.range_of(weight))

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the grid of the learned range, taken to the folded weight by `gain` where there is one per channel."""
        low, high = self.ends()
        if gain is not None and self.spec.axis is not None:
            low, high = low * gain, high * gain
        return learned_grid(low, high, self.spec, floor)


def learned_grid(low: Tensor, high: Tensor, spec: QuantSpec, floor: Tensor | None = None) -> Grid:
    """Return the grid of a range, as `grid_from_range` has it; gradients pass straight through all that it rounds.

    A symmetric grid is that of `high` alone.
    """
    exact = grid_from_range(low.detach(), high.detach(), spec, floor)
    if spec.symmetric:
        return Grid(straight_through(high / spec.qmax, exact.scale), exact.zero_point)
    scale = straight_through((high - low) / (spec.qmax - spec.qmin), exact.scale)
    zero_point = spec.qmin - low / scale if spec.upper is None else spec.qmax - high / scale
    return Grid(scale, straight_through(zero_point, exact.zero_point))
