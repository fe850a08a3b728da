"""The range that LSQ+ begins a weight's with."""

from collections.abc import Iterable

import torch
from torch import Tensor

from qatc.ranges.base import Range, RangeEstimator
from qatc.ranks import Join
from qatc.spec import QuantSpec


class ThreeSigma(RangeEstimator):
    """The range of a grid with the step max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(b-1), over what was seen.

    The start of LSQ+ for weights (Bhalgat et al., arXiv:2004.09576, equation 10). An asymmetric grid covers
    [mu - 3 sigma, mu + 3 sigma].
    """

    sums: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels)
        # Of every batch its mean, its mean square, and 1.
        self.register_buffer("sums", torch.zeros(3, channels))

    def collect(self, x: Tensor) -> None:
        """Add up the means of the batch, unless a value is not finite."""
        rows = self._rows(x).double()
        seen = torch.stack([rows.mean(1), rows.square().mean(1), torch.ones_like(rows[:, 0])]).float()
        self.sums += torch.where(seen.isfinite().all(0), seen, 0.0)

    def range(self) -> Range:
        """Return the range; NaN while nothing was seen. The mean over batches weighs each the same."""
        total, squares, count = self.sums.double()
        mean = total / count
        reach = 3 * (squares / count - mean.square()).clamp(min=0.0).sqrt()
        low, high = (mean - reach).float(), (mean + reach).float()
        if not self.spec.symmetric:
            return self._found(low, high)
        steps = self.spec.qmax / (1 << (self.spec.bits - self.spec.signed))
        amplitude = torch.maximum(low.abs(), high.abs()) * steps
        return self._found(-amplitude if self.spec.signed else torch.zeros_like(amplitude), amplitude)

    def states(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the sums: of the ranks' sums the ratios of the means are those of the sums."""
        return [(self.sums, "mean")]
