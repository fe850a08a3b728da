"""The range of TI's PACT2: the extremes of a thinned batch without its rarest values, averaged over batches."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from qatc.ranges.base import Range, RangeEstimator
from qatc.ranks import Join
from qatc.spec import QuantSpec

_BINS = 256
_SHARE = 1e-4  # range_shrink_activations = 0.01 percent
_SLOWEST = 1e-3
_STRIDE = 2
_SMALL = 4  # images of up to so many rows or columns are not thinned


class TrimmedAverage(RangeEstimator):
    """clips <- (1 - f) clips + f new, f = max(1 / n, 0.001) for the n-th batch: a mean, then a moving average.

    `new` are the ends of a histogram of 256 bins over the batch without the bins at either side that together hold
    less than 0.01 % of it. Images with one range are thinned first, by taking every second row and column (TI
    edgeai-torchmodelopt v1, `PACT2`). Where the original begins at random, this one goes through the four places in
    turn, so that a run that is resumed sees the same; the original forgets the first batch at the second.
    """

    cheap: ClassVar[bool] = True
    clips: Tensor
    count: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels)
        self.register_buffer("clips", torch.full((2, channels), torch.nan))
        self.register_buffer("count", torch.zeros(1))

    def collect(self, x: Tensor) -> None:
        """Move the ends towards those of the batch, unless a value of it is not finite."""
        rows = self._rows(self._thinned(x.detach()))
        low, high = rows.amin(1), rows.amax(1)
        good = ((high - low) < torch.inf).all()
        new = torch.where(good, self._trimmed(rows, low, high), self.clips)
        self.count += good
        share = (1.0 / self.count).clamp(_SLOWEST, 1.0)
        self.clips.copy_(torch.where(self.clips.isnan(), new, self.clips + share * (new - self.clips)))

    def range(self) -> Range:
        """Return the averaged ends."""
        return self._found(self.clips[0], self.clips[1])

    def states(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the ends, of which all ranks take the mean."""
        return [(self.clips, "mean"), (self.count, "greatest")]

    def _thinned(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or self.spec.axis is not None or min(x.shape[-2:]) <= _SMALL:
            return x
        turn = self.count.long() % _STRIDE**2
        places = torch.arange(x.shape[-2] // _STRIDE, device=x.device) * _STRIDE
        columns = torch.arange(x.shape[-1] // _STRIDE, device=x.device) * _STRIDE
        return x[..., (places + turn // _STRIDE)[:, None], (columns + turn % _STRIDE)[None, :]]

    def _trimmed(self, rows: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the ends, [2, channels]."""
        width = ((high - low) / _BINS).clamp(min=torch.finfo(torch.float32).tiny)
        places = ((rows - low[:, None]) / width[:, None]).nan_to_num(0.0, 0.0, 0.0).long().clamp_(0, _BINS - 1)
        counts = torch.zeros(rows.shape[0], _BINS, device=rows.device).scatter_add_(1, places, torch.ones_like(rows))
        below = counts.cumsum(1) / rows.shape[1]
        above = counts.flip(1).cumsum(1) / rows.shape[1]
        return torch.stack([low + width * (below < _SHARE).sum(1), high - width * (above < _SHARE).sum(1)])
