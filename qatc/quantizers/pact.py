"""Learned clipping levels of activations: PACT and CG-PACT."""

from typing import ClassVar

import torch
from torch import Tensor

from qatc.grid import Grid
from qatc.quantizers.fake_quantize import fake_quantize, straight_through
from qatc.quantizers.learned_range import LearnedRange


class CGPact(LearnedRange):
    """Calibrated-gradient PACT (SAT, Jin et al., arXiv:1912.10207, section 4.2; N2D2's QAct=SAT).

    With c = clip(x, 0, alpha) and R = 2^b - 1: y = alpha round(R c / alpha) / R, dy/dx = 1 where nothing was clipped,
    dy/dalpha = 1 where x >= alpha, else round(R c / alpha) / R - c / alpha. `high` is alpha. A signed grid clips at
    -alpha too, an asymmetric one learns both its ends.
    """

    default_range: ClassVar[str] = "moving_average"


class Pact(CGPact):
    """PACT (Choi et al., arXiv:1805.06085, section 3): the same, with dy/dalpha = 0 where x < alpha."""

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Return x fake-quantized; its gradient is that of clipping at the grid's ends."""
        quantized = fake_quantize(x.detach(), Grid(*(v.detach() for v in grid)), self.spec)
        # Zero counts as clipped where nothing is below it, as everywhere else.
        above = x if self.spec.signed or not self.spec.symmetric else torch.relu(x)
        return straight_through(self.clamp(above, grid), quantized)
