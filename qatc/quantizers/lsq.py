"""Learned step size quantization (Esser et al., arXiv:1902.08153), the step in the log domain."""

import math
from dataclasses import replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from qatc.grid import (
    MIN_SCALE,
    Grid,
    finish_scale,
    finish_zero_point,
    grid_from_range,
    within_clip,
)
from qatc.quantizers.base import Quantizer
from qatc.quantizers.fake_quantize import fake_quantize_learned, straight_through
from qatc.quantizers.weight import WeightQuantizer
from qatc.ranges import Range
from qatc.spec import QuantSpec

# Keeps the step finite.
MAX_LOG2_SCALE = 40.0
# Octaves per unit of the parameter. By one octave, Adam at a rate that suits weights moves a step hardly at all in a
# short training, too little for 4 bits and fewer (TQT, arXiv:1903.08066, gives its log2 thresholds a rate of 1e-2 where
# its weights have 1e-6); docs/decisions/learned-steps.md has what other factors are worth.
OCTAVES = 8.0


class _Learned(Quantizer):
    """The step as a power, base 256, of a parameter: positive whatever the optimizer does.

    The parameter is [1], as FSDP shards it, or [channels].

    The step's gradient is scaled by 1 / sqrt(n * qmax), n the number of values per step (section 2.2 of the paper).
    """

    default_range: ClassVar[str] = "mean_magnitude"
    log_scale: nn.Parameter

    def step(self) -> Tensor:
        """Return the learned step, 0-d or [channels]; finite, however far the optimizer went."""
        step = torch.exp2((OCTAVES * self.log_scale.float()).clamp(max=MAX_LOG2_SCALE))
        return step.view(()) if self.spec.axis is None else step

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Return x fake-quantized; the step learns."""
        return fake_quantize_learned(x, grid, self.spec, self.gradient_scale(x, grid))

    def gradient_scale(self, x: Tensor, grid: Grid) -> float:
        """Return 1 / sqrt(n * qmax)."""
        values = x.numel() / grid.scale.numel()
        return 1.0 / math.sqrt(values * self.spec.qmax)

    def _set_scale(self, scale: Tensor) -> None:
        with torch.no_grad():
            self.log_scale.copy_((torch.log2(scale.clamp(min=MIN_SCALE)) / OCTAVES).view_as(self.log_scale))
        self._ready = False


def learned_scale(scale: Tensor, zero_point: Tensor, spec: QuantSpec, floor: Tensor | None) -> Tensor:
    """Return a step that is exp2 of a parameter, as the spec allows it; the gradient passes through its bounds.

    Of a power of two s = 2^round(e) it is the exponent's rounding that the gradient passes straight through:
    ds/de = s ln 2, with the s that is used (TQT, Jain et al., arXiv:1903.08066, section 3.3).
    """
    exact = within_clip(finish_scale(scale.detach(), spec, floor), zero_point, spec)
    if spec.pow2 is not None:
        scale = scale * (exact / scale.detach().clamp(min=MIN_SCALE))
    return straight_through(scale, exact)


class WeightLSQ(WeightQuantizer, _Learned):
    """LSQ of a weight, one step per channel or one in all, begun with the least mean square error.

    The paper's own beginning (`mean_magnitude`) costs a tenth of the accuracy at 2 bits where training is short.

    A step per channel is that of the weight before a BatchNorm is folded into it (`gain` takes it to the folded one),
    so it need not chase the statistics; a single step is that of the folded weight.
    """

    default_range: ClassVar[str] = "mse"

    def __init__(self, spec: QuantSpec, range_name: str | None = None, sites: int = 1) -> None:
        super().__init__(spec, range_name, sites)
        self.log_scale = nn.Parameter(torch.empty(0))

    @classmethod
    def of(cls, spec: QuantSpec, weight: Tensor, range_name: str | None = None) -> Self:
        """Return the quantizer with its step set from the weight."""
        made = cls(spec, range_name)
        made.log_scale = nn.Parameter(torch.empty_like(made.range_of(weight).low.view(-1)))
        made.begin(weight)
        return made

    def begin(self, weight: Tensor) -> None:
        """Set the step from the weight."""
        self._set_scale(grid_from_range(*self.range_of(weight), replace(self.spec, pow2=None)).scale)

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the learned step, taken to the folded weight by `gain` where there is one per channel."""
        scale = self.step()
        if gain is not None and self.spec.axis is not None:
            scale = scale * gain
        zero_point = torch.zeros_like(scale)
        return Grid(learned_scale(scale, zero_point, self.spec, floor), zero_point)


class LSQ(_Learned):
    """LSQ of an activation: the step starts from the recorded mean magnitude, then learns.

    An asymmetric grid starts from the least mean square error instead, and keeps that zero point.
    """

    zero_point: Tensor

    def __init__(self, spec: QuantSpec, range_name: str | None = None, sites: int = 1) -> None:
        super().__init__(spec, range_name, sites)
        self.log_scale = nn.Parameter(torch.full((1,), torch.nan))
        self.register_buffer("zero_point", torch.zeros(()))

    def start(self, found: Range) -> None:
        """Set step and zero point from the range."""
        spec = replace(self.spec, pow2=None, upper=None) if self.spec.symmetric else self.spec
        grid = grid_from_range(*found, spec)
        self._set_scale(grid.scale)
        self.zero_point.copy_(grid.zero_point)

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the learned step and the recorded zero point."""
        zero_point = finish_zero_point(self.zero_point, self.spec)
        return Grid(learned_scale(self.step(), zero_point, self.spec, floor), zero_point)

    def _state(self) -> list[Tensor]:
        return [self.log_scale]
