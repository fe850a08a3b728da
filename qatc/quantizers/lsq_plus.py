"""LSQ+ (Bhalgat et al., arXiv:2004.09576): LSQ with a learned offset, and starting values for few bits."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from qatc.grid import Grid, finish_scale, finish_zero_point, grid_from_range
from qatc.quantizers.fake_quantize import straight_through
from qatc.quantizers.lsq import LSQ, WeightLSQ, learned_scale
from qatc.ranges import Range
from qatc.spec import QuantSpec


class WeightLSQPlus(WeightLSQ):
    """LSQ of a weight, from the step max(|mu - 3 sigma|, |mu + 3 sigma|) / 2^(b-1) (section 3.2, equation 10)."""

    default_range: ClassVar[str] = "three_sigma"


class LSQPlus(LSQ):
    """LSQ of an activation with a learned offset where the grid is asymmetric (section 3.1, equations 5 to 8).

    x is put on the values c s + beta, c the codes. Integer arithmetic needs zero among them: the zero point is
    round(-beta / s), the gradient passing straight through. Step and offset begin at the least square error.
    """

    default_range: ClassVar[str] = "mse"
    offset: nn.Parameter | None

    def __init__(self, spec: QuantSpec, range_name: str | None = None, sites: int = 1) -> None:
        super().__init__(spec, range_name, sites)
        self.offset = None if spec.symmetric else nn.Parameter(torch.full((1,), torch.nan))

    def start(self, found: Range) -> None:
        """Set step and offset from the range."""
        super().start(found)
        if self.offset is not None:
            scale, zero_point = grid_from_range(*found, self.spec)
            with torch.no_grad():
                self.offset.copy_(-zero_point * scale)

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the learned step and zero point."""
        if self.offset is None:
            return super().grid(x, gain, floor)
        step, offset, spec = self.step(), self.offset.view(()), self.spec
        finished = finish_scale(step.detach(), spec, floor)
        exact = finish_zero_point(-offset.detach() / finished, spec)
        scale = learned_scale(step, exact, spec, floor)
        return Grid(scale, straight_through(-offset / scale, exact))

    def _state(self) -> list[Tensor]:
        return [self.log_scale] if self.offset is None else [self.log_scale, self.offset]
