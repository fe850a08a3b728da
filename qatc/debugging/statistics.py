"""What is summed up of tensors batch by batch; sums are float64, and nothing grows with the number of batches."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from qatc.debugging.figures import Agreement, Usage
from qatc.grid import Grid, per_channel
from qatc.ranges.histogram import Histogram as GrowingHistogram
from qatc.spec import QuantSpec
from qatc.view.measured import Histogram

MOST_BINS = 256


class Sums:
    """Sums over the values of two tensors that should be alike: x, as it should be, and y."""

    def __init__(self) -> None:
        self.power: Tensor | float = 0.0
        self.other_power: Tensor | float = 0.0
        self.product: Tensor | float = 0.0
        self.error: Tensor | float = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in a batch of both, of one shape; nothing waits for the device."""
        x, y = x.detach().float(), y.detach().float()
        self.power = self.power + _total(x * x)
        self.other_power = self.other_power + _total(y * y)
        self.product = self.product + _total(x * y)
        self.error = self.error + _total((x - y).square())

    def result(self) -> Agreement:
        """Return the figures."""
        power, other, product, error = map(float, (self.power, self.other_power, self.product, self.error))
        return Agreement(power, error, cosine(power, other, product))


def _total(x: Tensor) -> Tensor:
    return x.sum(dtype=torch.float64)


def cosine(power: float, other: float, product: float) -> float:
    """Return the cosine similarity by the sums of squares and of products; 1 of two tensors of zeros."""
    if power == 0 or other == 0:
        return 1.0 if power == other else 0.0
    return product / math.sqrt(power) / math.sqrt(other)


class GridUse:
    """How a tensor uses its grid: its extremes, how much of it is clipped, which codes it has, and a histogram.

    The histogram grows with the data (`qatc.ranges.histogram`), so one pass over the data is enough. With a scale per
    channel it is in units of codes, so that all channels share one axis; otherwise in those of the values.
    """

    def __init__(self, spec: QuantSpec, grid: Grid) -> None:
        device = grid.scale.device
        self.spec, self.grid = spec, grid
        self.seen = torch.zeros(spec.qmax - spec.qmin + 1, dtype=torch.bool, device=device)
        self.clipped = torch.zeros((), dtype=torch.float64, device=device)
        self.count = 0
        self.range = torch.full((2,), -torch.inf, device=device)  # of minus the values, and of the values
        self.bins = GrowingHistogram(QuantSpec()).to(device)

    @property
    def in_codes(self) -> bool:
        """Whether the histogram is in units of codes."""
        return self.grid.scale.dim() > 0

    def add(self, x: Tensor) -> None:
        """Take in a batch of what is put on the grid."""
        if not x.numel():
            return
        x = x.detach().float()
        scale, zero_point = (per_channel(v, x, self.spec.axis) for v in self.grid)
        code = x / scale + zero_point
        rounded = torch.round(x / scale) + zero_point
        inside = rounded.clamp(self.spec.qmin, self.spec.qmax)
        self.seen[(inside - self.spec.qmin).nan_to_num(0.0).long().flatten()] = True
        self.clipped += _total((rounded != inside).float())
        self.count += x.numel()
        self.range = torch.maximum(self.range, torch.stack([-x.amin(), x.amax()]))
        self.bins.collect(code if self.in_codes else x)

    def result(self) -> Usage:
        """Return the figures."""
        lowest, highest = self.range.tolist()
        low, high = ((limit - self.grid.zero_point) * self.grid.scale for limit in (self.spec.qmin, self.spec.qmax))
        ends = float(low.amin()), float(high.amax())
        used = int(self.seen.sum()) / self.seen.numel()
        return Usage((-lowest, highest), ends, float(self.clipped) / max(self.count, 1), used, self._histogram(ends))

    def _histogram(self, ends: tuple[float, float]) -> Histogram | None:
        low, high = float(self.bins.low), float(self.bins.high)
        if not math.isfinite(low) or not math.isfinite(high):
            return None  # no value was finite
        width = 2.0 ** float(self.bins.exponent)
        first, last = (min(max(math.floor(end / width), -self.bins.side), self.bins.side - 1) for end in (low, high))
        counts = self.bins.counts[0, first + self.bins.side : last + self.bins.side + 1].cpu()
        together = math.ceil(len(counts) / MOST_BINS)
        counts = F.pad(counts, (0, -len(counts) % together)).view(-1, together).sum(1)
        start, stop = first * width, (first + len(counts) * together) * width
        found = tuple(map(int, counts))
        if self.in_codes:
            return Histogram(start, stop, found, "codes", 1.0, 0.0, (self.spec.qmin, self.spec.qmax))
        return Histogram(start, stop, found, "", float(self.grid.scale), 0.0, ends)
