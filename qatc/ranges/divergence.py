"""Ranges by entropy: the one that loses the least information about how the values are spread."""

from typing import ClassVar

import torch
from torch import Tensor

from qatc.ranges.base import Range
from qatc.ranges.percentile import Percentile
from qatc.spec import QuantSpec

_BINS = 2048


class KL(Percentile):
    """The range of the least Kullback-Leibler divergence between the values and their codes.

    TensorRT's entropy calibration (S. Migacz, "8-bit inference with TensorRT", GTC 2017): for each number of bins that
    could be kept, the reference counts what lies beyond in its last bin; the candidate spreads what each code holds
    evenly over its bins that are not empty. By magnitude, on 2,048 bins; an asymmetric grid keeps the extremes within.
    """

    option: ClassVar[str | None] = None

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels, side=2 * _BINS)

    def range(self) -> Range:
        """Return the range from minus the magnitude that was best (0 where the codes are unsigned) to it."""
        kept = torch.tensor([self._kept(counts) for counts in self._magnitudes()], device=self.counts.device)
        width = torch.exp2(self.exponent) * (self.side // _BINS)
        reach = torch.where(self.low.isnan(), torch.nan, kept * width)
        if self.spec.symmetric:
            reach = torch.minimum(reach, torch.maximum(self.low.abs(), self.high.abs()))
            return self._found(-reach if self.spec.signed else torch.zeros_like(reach), reach)
        return self._found(torch.maximum(-reach, self.low), torch.minimum(reach, self.high))

    def _kept(self, magnitudes: Tensor) -> int:
        """Return how many of the 2,048 bins to keep, of the counts [side] of one channel."""
        counts = magnitudes.view(_BINS, -1).sum(1).double()
        # Values of exactly zero have a code of their own, and would hide the spread of all others.
        counts[0] = counts[1]
        levels = self.spec.qmax + 1 if self.spec.symmetric else (self.spec.qmax - self.spec.qmin + 1) // 2
        used = int(counts.nonzero().max()) + 1 if bool(counts.any()) else 0
        if used <= levels:
            return used
        tried = {kept: _divergence(counts, kept, levels) for kept in range(levels, used + 1)}
        return min(tried, key=lambda kept: (tried[kept], -kept))


def _divergence(counts: Tensor, kept: int, levels: int) -> float:
    """Return the divergence of the first `kept` bins from themselves in `levels` codes."""
    inside = counts[:kept]
    reference = inside.clone()
    reference[-1] += counts[kept:].sum()
    code = torch.arange(kept, device=counts.device) * levels // kept
    filled = (reference > 0).double()
    sums = torch.zeros(levels, dtype=torch.float64, device=counts.device).scatter_add_(0, code, inside)
    places = torch.zeros_like(sums).scatter_add_(0, code, filled)
    spread = (sums / places.clamp(min=1))[code] * filled
    p, q = reference / reference.sum(), spread / spread.sum()
    # A last bin that holds only what lay beyond has nothing in any code.
    q = q.clamp(min=1e-12)
    return float((p[p > 0] * (p[p > 0] / q[p > 0]).log()).sum())
