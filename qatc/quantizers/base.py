"""What every quantizer shares: when it records, when it moves, when it quantizes."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from qatc.compiled import as_it_is_now
from qatc.errors import CalibrationError
from qatc.grid import Grid, codes, dequantize, least_scale, per_channel
from qatc.quantizers.fake_quantize import fake_quantize, snap, straight_through_and
from qatc.ranges import Range, RangeEstimator, range_estimator
from qatc.ranks import Join, join
from qatc.spec import MAX_BITS, MIN_ACTIVATION_BITS, QuantSpec, Ste

# What a quantizer does in training, stage by stage of a schedule: nothing; collect ranges; let them follow the data;
# clamp values to them; quantize. Before the last two values pass through as they are, in evaluation too.
Stage = Literal["float", "record", "follow", "clamp", "quantize"]


class Quantizer(nn.Module):
    """A fake quantizer of one tensor, or of several that share a grid (each call site of them has its number).

    Recording (`qatc.calibrate`) only collects ranges and passes x through; then `settle` takes the range that the
    estimators chose. Otherwise ranges move in training mode alone, while `observing`, and not again where checkpointing
    recomputes a batch; `eval()` changes nothing. Before it has a range, a quantizer passes x through. The `stage` is
    that of a `qatc.Schedule`.

    A subclass keeps its state in parameters and buffers that are NaN until known, and implements `start` and `grid`;
    `observe` if its range follows the data of training.
    """

    default_range: ClassVar[str] = "moving_average"
    widths: ClassVar[range] = range(MIN_ACTIVATION_BITS, MAX_BITS + 1)
    transforms: ClassVar[bool] = False  # whether `values` are other than x
    homogeneous: ClassVar[bool] = True  # whether a factor on a weight's channel is one on its values
    folds_per_channel: ClassVar[bool] = False  # whether a BatchNorm folded into a weight needs a scale per channel
    always_records: ClassVar[bool] = False
    # The gradient of x where it was clipped, by the straight-through estimator: none (masked), or as it is.
    ste: Ste = "masked"
    finite: Tensor
    recorders: nn.ModuleList  # an estimator per call site while recording; none before and after, but for some kinds

    def __init__(self, spec: QuantSpec, range_name: str | None = None, sites: int = 1) -> None:
        super().__init__()
        self.spec = spec
        self.range_name = range_name or self.default_range
        self.sites = sites
        self.enabled = True
        self.observing = True
        self.recording = False
        self.stage: Stage = "quantize"
        self.overwrites = False  # nothing else reads what this one is given (set by the pass leave-clips)
        self.recorders = nn.ModuleList()
        self.register_buffer("finite", torch.ones(()), persistent=False)  # whether all that was recorded is
        # Derived from the tensors and looked up once, since reading a tensor waits for the device.
        self._ready = False
        self.register_load_state_dict_post_hook(_look_again)

    def forward(
        self,
        x: Tensor,
        site: int = 0,
        *,
        gain: Tensor | None = None,
        floor: Tensor | None = None,
        on: Grid | None = None,
    ) -> Tensor:
        """Return x on its grid, in x's shape and dtype.

        `gain` [channels] multiplies a learned scale (a BatchNorm folded into the weight); `floor` is the least scale;
        `on` the grid that `grid` gave for all this, where the caller has it.
        """
        if self.enabled and not x.is_floating_point():
            raise CalibrationError(
                f"a quantizer was given {x.dtype}".replace("torch.", ""),
                remedy="give qatc.prepare example_inputs: tensors of integers then stay as they are",
            )
        if self.recording or (self.training and self.stage == "record"):
            if not recomputing():
                self.record(x.detach(), site)
            if self.transforms and self.acts:
                return self.values(x, self.grid(x.detach(), gain, floor), gain)
            return self.passed(x)
        if self.moves and self.stage != "float" and not recomputing():
            self.observe(x.detach(), site)
        if not self.enabled:
            return x
        if not self.acts:
            return self.passed(x)
        if not self.ready:
            return x
        grid = Grid(*map(as_it_is_now, self.grid(x.detach(), gain, floor) if on is None else on))
        if self.transforms:
            x = self.values(x, grid, gain)
        if self.stage == "clamp":
            return self.clamp(x, grid)
        if self.ste == "unmasked":
            return straight_through_and(x, self.quantize(x.detach(), grid))
        return self.quantize(x, grid)

    def with_bias(self, weight: Tensor, bias: Tensor, scale: Tensor, gain: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return a weight on its grid, and the bias as its int32 codes read: on that times `scale`, the input's."""
        on = self.grid(weight.detach(), gain, least_scale(bias, scale, self.spec))
        return self(weight, gain=gain, on=on), snap(bias, on.scale.detach() * scale)

    @property
    def acts(self) -> bool:
        """Whether values change in this stage."""
        return self.stage in ("quantize", "clamp")

    @property
    def quantizes(self) -> bool:
        """Whether values come out on the grid."""
        return self.enabled and not self.recording and self.stage == "quantize" and self.ready

    def passed(self, x: Tensor) -> Tensor:
        """Return x as it is; what learns gets a gradient of zero, for which DistributedDataParallel waits."""
        if self.training and torch.is_grad_enabled() and (learned := list(self.parameters())):
            passed: Tensor = _Passed.apply(x, *learned)
            return passed
        return x

    @property
    def ready(self) -> bool:
        """Whether there is a range to quantize with."""
        if not self._ready:
            self._ready = self._has_range()
        return self._ready

    def clips_at(self, low: float, high: float) -> bool:
        """Say whether this call of a training step gives the same, and the same gradient, for values not clipped yet.

        So it is if the grid ends at the same values: its lowest code is zero, and it does not reach beyond `high`.
        """
        learns = self.training and torch.is_grad_enabled() and self.ste == "masked"
        upper = self.spec.upper if self.spec.pow2 is None else None  # a power of two reaches beyond
        ends = low == 0 and not self.spec.signed and self.spec.symmetric and high in (math.inf, upper)
        return learns and ends and self.quantizes

    @property
    def follows_channels(self) -> bool:
        """Whether a factor per channel, of either sign, changes no code: the scale takes it."""
        return False

    def codes(self, x: Tensor, gain: Tensor | None = None, floor: Tensor | None = None) -> Tensor:
        """Return the integer codes of x, as float32."""
        return self.codes_on(self.checked_grid(x, gain, floor), x, gain)

    def codes_on(self, grid: Grid, x: Tensor, gain: Tensor | None = None) -> Tensor:
        """Return the integer codes of x on a grid that `grid` gave for it, as float32."""
        return codes(self.values(x.detach(), grid, gain), grid, self.spec)

    def values(self, x: Tensor, grid: Grid, gain: Tensor | None) -> Tensor:
        """Return what is put on the grid: x, but for quantizers that make something else of it first."""
        return x

    @property
    def moves(self) -> bool:
        """Whether training batches move the range."""
        return self.training and self.observing and not self.recording

    def checked_grid(self, x: Tensor, gain: Tensor | None = None, floor: Tensor | None = None) -> Grid:
        """Return the grid; a `CalibrationError` if there is none or it is not finite."""
        if not self.ready:
            raise CalibrationError("a quantizer has no range", remedy="run qatc.calibrate(model, batches), or train")
        grid = Grid(*(v.detach() for v in self.grid(x.detach(), gain, floor)))
        if not all(bool(torch.isfinite(v).all()) for v in grid):
            raise CalibrationError("a range is not finite", remedy="look for NaN or infinity in weights and data")
        return grid

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Return x fake-quantized with this grid."""
        return fake_quantize(x, grid, self.spec, overwrite=self.overwrites)

    def clamp(self, x: Tensor, grid: Grid) -> Tensor:
        """Return x clamped to the ends of the grid, not rounded; a learned scale gets the gradient of its end."""
        scale, zero_point = (per_channel(v, x, self.spec.axis) for v in grid)
        low, high = (self.spec.qmin - zero_point) * scale, (self.spec.qmax - zero_point) * scale
        return torch.clamp(x.float(), low, high).to(x.dtype)

    def record(self, x: Tensor, site: int) -> None:
        """Collect one batch for `settle`, which refuses a value that is not finite."""
        if not len(self.recorders):
            self.recorders.extend(self.estimators(x))
        self.finite.mul_((x.amin() + x.amax()).isfinite())
        self.recorder(site).collect(x)

    def settle(self) -> bool:
        """Take the first range from what was recorded on all ranks; say whether there is one.

        There is none if a call site was never reached, or a value was not finite.
        """
        if not len(self.recorders):
            return self.ready
        finite = self._reduced()
        found = self.recorded()
        if not finite or not bool(found.low.isfinite().all() and found.high.isfinite().all()):
            return False
        self.start(found)
        self.recorders = nn.ModuleList()
        self._ready = False
        return self.ready

    def _reduced(self) -> bool:
        """Make what was recorded that of all ranks; say whether all of it was finite."""
        for site in range(len(self.recorders)):
            self.recorder(site).reduce()
        join([(self.finite, "least")])
        finite = bool(self.finite)
        self.finite.fill_(1.0)
        return finite

    def recorded(self) -> Range:
        """Return the range that covers what every call site recorded; NaN if one recorded nothing."""
        return union([self.recorder(site).range() for site in range(len(self.recorders))])

    def recorder(self, site: int) -> RangeEstimator:
        """Return the estimator of a call site."""
        found = self.recorders[site]
        assert isinstance(found, RangeEstimator)
        return found

    def estimators(self, x: Tensor) -> list[RangeEstimator]:
        """Return a fresh estimator per call site, for tensors like x."""
        axis = self.spec.axis
        channels = 1 if axis is None else x.shape[axis]
        return [range_estimator(self.range_name, self.spec, channels).to(x.device) for _ in range(self.sites)]

    def range_of(self, x: Tensor) -> Range:
        """Return the range that the estimator chooses for one tensor."""
        estimator = self.estimators(x)[0]
        estimator.collect(x.detach())
        return estimator.range()

    def begin(self, weight: Tensor) -> None:
        """Set what is kept of a weight from it, as it will be quantized: folded, or per channel unfolded."""

    @property
    def begins(self) -> bool:
        """Whether anything is kept of a weight."""
        return type(self).begin is not Quantizer.begin

    def start(self, found: Range) -> None:
        """Take a range as the first one; each quantizer defines its own."""
        raise NotImplementedError

    def covers(self) -> list[Range]:
        """Return the range that the grid is for, of every call site where each has its own; else one for all."""
        grid = self.checked_grid(torch.empty(0))
        low = -self.spec.qmax if self.spec.signed and self.spec.symmetric else self.spec.qmin
        ends = torch.tensor([float(low), float(self.spec.qmax)], device=grid.scale.device)
        return [Range(*dequantize(ends, grid, self.spec))]

    def cover(self, ranges: Sequence[Range]) -> None:
        """Take ranges of another quantizer's tensors, what `covers` gave: the values are the same, codes may not be."""
        self.start(union(list(ranges)))
        self._ready = False

    def observe(self, x: Tensor, site: int) -> None:
        """Follow the data of one training batch; without a range, start from it."""
        if not self.ready:
            self.recorders = nn.ModuleList(self.estimators(x)) if not len(self.recorders) else self.recorders
            self.recorder(site).collect(x)
            self.settle()

    def observed(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the state that `observe` moves, each with how the ranks' values of it become one."""
        return ()

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return scale and zero point as they are now; x is only read by those that follow it. Each defines its own."""
        raise NotImplementedError

    def with_spec(self, spec: QuantSpec, sites: int | None = None) -> "Quantizer":
        """Return a fresh quantizer of the same kind."""
        fresh = type(self)(spec, self.range_name, self.sites if sites is None else sites)
        fresh.ste = self.ste
        return fresh

    def extra_repr(self) -> str:
        """Show the spec in print(model)."""
        return str(self.spec)

    def _has_range(self) -> bool:
        return all(bool(torch.isfinite(t).all()) for t in self._state())

    def _state(self) -> list[Tensor]:
        return [*self.parameters(recurse=False), *self.buffers(recurse=False)]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # A state saved while recording has estimators that a fresh module has not yet, and the other way round.
        saved = any(key.startswith(f"{prefix}recorders.") for key in state_dict)
        if saved != bool(len(self.recorders)) and not self.always_records:
            self.recorders = nn.ModuleList(self._estimators_of(state_dict, prefix) if saved else [])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _estimators_of(self, state_dict: dict[str, Any], prefix: str) -> list[RangeEstimator]:
        first = next(value for key, value in state_dict.items() if key.startswith(f"{prefix}recorders."))
        axis = self.spec.axis
        shape = [1] * (1 if axis is None else axis + 1)
        if axis is not None:
            shape[axis] = first.shape[-1]
        return self.estimators(first.new_empty(shape))


def representable(quantizer: Quantizer) -> tuple[float, float]:
    """Return the least and greatest value on a tensor's grid; a `CalibrationError` if it has none."""
    grid, spec = quantizer.checked_grid(torch.empty(0)), quantizer.spec
    low, high = (dequantize(torch.tensor(float(code)), grid, spec) for code in (spec.qmin, spec.qmax))
    return float(low), float(high)


def union(ranges: list[Range]) -> Range:
    """Return the range that covers all of them; NaN where one is."""
    if len(ranges) == 1:
        return ranges[0]
    lows, highs = (torch.stack(ends) for ends in zip(*ranges, strict=True))
    return Range(lows.amin(0), highs.amax(0))


class _Passed(torch.autograd.Function):
    """x forward; its gradient, and zeros for what learns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *learned: Tensor) -> Tensor:
        ctx.save_for_backward(*learned)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads[0], *(torch.zeros_like(learned) for learned in ctx.saved_tensors)


def recomputing() -> bool:
    """Say whether this forward pass runs inside a backward pass: activation checkpointing sees a batch again."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _look_again(module: nn.Module, _keys: object) -> None:
    assert isinstance(module, Quantizer)
    module._ready = False
