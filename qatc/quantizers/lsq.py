"""Learned step size quantization (Esser et al., arXiv:1902.08153), the step in the log2 domain."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from qatc.quantizers.base import Quantizer
from qatc.quantizers.fake_quantize import fake_quantize_learned, straight_through
from qatc.quantizers.grid import (
    MIN_SCALE,
    Grid,
    finish_scale,
    finish_zero_point,
    grid_from_range,
    range_of,
    within_clip,
)
from qatc.ranks import Join, join
from qatc.spec import QuantSpec

# Keeps the step finite.
MAX_LOG2_SCALE = 40.0


class _Learned(Quantizer):
    """The step as exp2 of a parameter: positive whatever the optimizer does; [1], as FSDP shards it, or [channels].

    The step's gradient is scaled by 1 / sqrt(n * qmax), n the number of values per step (section 2.2 of the paper).
    """

    log2_scale: nn.Parameter

    def step(self) -> Tensor:
        """Return the learned step, 0-d or [channels]; finite, however far the optimizer went."""
        step = torch.exp2(self.log2_scale.float().clamp(max=MAX_LOG2_SCALE))
        return step.view(()) if self.spec.axis is None else step

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Return x fake-quantized; the step learns."""
        values = x.numel() / grid.scale.numel()
        return fake_quantize_learned(x, grid, self.spec, 1.0 / math.sqrt(values * self.spec.qmax))

    def _set_scale(self, scale: Tensor) -> None:
        with torch.no_grad():
            self.log2_scale.copy_(torch.log2(scale.clamp(min=MIN_SCALE)).view_as(self.log2_scale))
        self._ready = False


def _learned_scale(scale: Tensor, zero_point: Tensor, spec: QuantSpec, floor: Tensor | None) -> Tensor:
    """Return the scale as the spec allows it; the gradient passes straight through its roundings and bounds."""
    return straight_through(scale, within_clip(finish_scale(scale.detach(), spec, floor), zero_point, spec))


def initial_step(magnitude: Tensor, spec: QuantSpec) -> Tensor:
    """Return the paper's first step, 2 * mean|x| / sqrt(qmax)."""
    return 2 * magnitude / math.sqrt(spec.qmax)


class WeightLSQ(_Learned):
    """LSQ of a weight, one step per channel or one in all.

    A step per channel is that of the weight before a BatchNorm is folded into it (`gain` takes it to the folded one),
    so it need not chase the statistics; a single step is that of the folded weight.
    """

    def __init__(self, spec: QuantSpec, sites: int = 1) -> None:
        super().__init__(spec, sites)
        self.log2_scale = nn.Parameter(torch.empty(0))

    @classmethod
    def of(cls, spec: QuantSpec, weight: Tensor) -> "WeightLSQ":
        """Return the quantizer with its step set from the weight."""
        made = cls(spec)
        kept = () if spec.axis is None else (spec.axis,)
        magnitude = weight.detach().float().abs().mean(dim=[d for d in range(weight.dim()) if d not in kept])
        made.log2_scale = nn.Parameter(torch.empty_like(magnitude.view(-1)))
        made._set_scale(initial_step(magnitude, spec))
        return made

    def record(self, x: Tensor, site: int) -> None:
        """Do nothing: the step was set from the weight."""

    def observe(self, x: Tensor, site: int) -> None:
        """Do nothing: the step learns by its gradient."""

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the learned step, taken to the folded weight by `gain` where there is one per channel."""
        scale = self.step()
        if gain is not None and self.spec.axis is not None:
            scale = scale * gain
        zero_point = torch.zeros_like(scale)
        return Grid(_learned_scale(scale, zero_point, self.spec, floor), zero_point)


class LSQ(_Learned):
    """LSQ of an activation: the step starts from the recorded mean magnitude, then learns.

    An asymmetric grid starts from the recorded range instead and keeps that zero point.
    """

    low: Tensor
    high: Tensor
    magnitude: Tensor
    batches: Tensor
    zero_point: Tensor

    def __init__(self, spec: QuantSpec, sites: int = 1) -> None:
        super().__init__(spec, sites)
        self.log2_scale = nn.Parameter(torch.full((1,), torch.nan))
        self.register_buffer("zero_point", torch.zeros(()))
        for name in ("low", "high", "magnitude"):
            self.register_buffer(name, torch.full((sites,), torch.nan), persistent=False)
        self.register_buffer("batches", torch.zeros(sites), persistent=False)

    def record(self, x: Tensor, site: int) -> None:
        """Collect range and mean magnitude of one batch."""
        low, high = range_of(x, None)
        self.low[site] = torch.fmin(self.low[site], low)
        self.high[site] = torch.fmax(self.high[site], high)
        seen = x.float().abs().mean()
        self.batches[site] += 1
        mean = torch.where(self.batches[site] > 1, self.magnitude[site], seen)
        self.magnitude[site] = mean + (seen - mean) / self.batches[site]

    def recorded(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the extremes and the mean magnitude; each rank counts alike, however many batches it saw."""
        return (self.low, "least"), (self.high, "greatest"), (self.magnitude, "mean"), (self.batches, "greatest")

    def settle(self) -> None:
        """Set step and zero point from what was recorded."""
        if not bool((self.batches > 0).all()):
            return
        if self.spec.symmetric:
            self._set_scale(initial_step(self.magnitude.max(), self.spec))
            return
        grid = grid_from_range(self.low.min(), self.high.max(), self.spec)
        self._set_scale(grid.scale)
        self.zero_point.copy_(grid.zero_point)

    def observe(self, x: Tensor, site: int) -> None:
        """Start from the first training batch if nothing was recorded; afterwards the step learns by its gradient."""
        if not self.ready:
            self.record(x, site)
            join(self.recorded())  # parameters must be the same on all ranks from the first step on
            self.settle()

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the learned step and the recorded zero point."""
        zero_point = finish_zero_point(self.zero_point, self.spec)
        return Grid(_learned_scale(self.step(), zero_point, self.spec, floor), zero_point)

    def _state(self) -> list[Tensor]:
        return [self.log2_scale]
