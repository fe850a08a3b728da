"""What every quantizer shares: when it records, when it moves, when it quantizes."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from qatc.errors import CalibrationError
from qatc.quantizers.fake_quantize import fake_quantize
from qatc.quantizers.grid import Grid, codes, per_channel
from qatc.spec import QuantSpec

# What a quantizer does in training, stage by stage of a schedule: nothing; collect ranges; let them follow the data;
# clamp values to them; quantize. Before the last two values pass through as they are, in evaluation too.
Stage = Literal["float", "record", "follow", "clamp", "quantize"]


class Quantizer(nn.Module):
    """A fake quantizer of one tensor, or of several that share a grid (each call site of them has its number).

    Recording (`qatc.calibrate`) only collects ranges and passes x through. Otherwise ranges move in training mode
    alone, while `observing`; `eval()` changes nothing. Before it has a range, a quantizer passes x through. The `stage`
    is that of a `qatc.Schedule`.

    A subclass keeps its state in parameters and buffers that are NaN until known, and implements `record`, `settle`,
    `observe` and `grid`.
    """

    def __init__(self, spec: QuantSpec, sites: int = 1) -> None:
        super().__init__()
        self.spec = spec
        self.sites = sites
        self.enabled = True
        self.observing = True
        self.recording = False
        self.stage: Stage = "quantize"
        # Derived from the tensors and looked up once, since reading a tensor waits for the device.
        self._ready = False
        self.register_load_state_dict_post_hook(_look_again)

    def forward(self, x: Tensor, site: int = 0, *, gain: Tensor | None = None, floor: Tensor | None = None) -> Tensor:
        """Return x on its grid, in x's shape and dtype.

        `gain` [channels] multiplies a learned scale (a BatchNorm folded into the weight); `floor` is the least scale.
        """
        if self.enabled and not x.is_floating_point():
            raise CalibrationError(
                f"a quantizer was given {x.dtype}".replace("torch.", ""),
                remedy="give qatc.prepare example_inputs: tensors of integers then stay as they are",
            )
        if self.recording or (self.training and self.stage == "record"):
            self.record(x.detach(), site)
            self._ready = False
            return self.passed(x)
        if self.training and self.observing and self.stage != "float":
            self.observe(x.detach(), site)
        if not self.enabled:
            return x
        if not self.acts:
            return self.passed(x)
        if not self.ready:
            return x
        grid = self.grid(x.detach(), gain, floor)
        return self.clamp(x, grid) if self.stage == "clamp" else self.quantize(x, grid)

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

    def codes(self, x: Tensor, gain: Tensor | None = None, floor: Tensor | None = None) -> Tensor:
        """Return the integer codes of x, as float32."""
        return codes(x, self.checked_grid(x, gain, floor), self.spec)

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
        return fake_quantize(x, grid, self.spec)

    def clamp(self, x: Tensor, grid: Grid) -> Tensor:
        """Return x clamped to the ends of the grid, not rounded; a learned scale gets the gradient of its end."""
        scale, zero_point = (per_channel(v, x, self.spec.axis) for v in grid)
        low, high = (self.spec.qmin - zero_point) * scale, (self.spec.qmax - zero_point) * scale
        return torch.clamp(x.float(), low, high).to(x.dtype)

    def begin(self, weight: Tensor) -> None:
        """Set what is learned from the weight, as it will be quantized: folded, or per channel unfolded."""

    def record(self, x: Tensor, site: int) -> None:
        """Collect what `settle` needs from one batch; each quantizer defines its own."""
        raise NotImplementedError

    def settle(self) -> None:
        """Turn what was recorded into the first range."""

    def observe(self, x: Tensor, site: int) -> None:
        """Follow the data of one training batch; each quantizer defines its own."""
        raise NotImplementedError

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return scale and zero point as they are now; x is only read by those that follow it. Each defines its own."""
        raise NotImplementedError

    def with_spec(self, spec: QuantSpec, sites: int | None = None) -> "Quantizer":
        """Return a fresh quantizer of the same kind."""
        return type(self)(spec, self.sites if sites is None else sites)

    def extra_repr(self) -> str:
        """Show the spec in print(model)."""
        return str(self.spec)

    def _has_range(self) -> bool:
        return all(bool(torch.isfinite(t).all()) for t in self._state())

    def _state(self) -> list[Tensor]:
        return [*self.parameters(recurse=False), *self.buffers(recurse=False)]


class _Passed(torch.autograd.Function):
    """x forward; its gradient, and zeros for what learns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *learned: Tensor) -> Tensor:
        ctx.save_for_backward(*learned)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads[0], *(torch.zeros_like(learned) for learned in ctx.saved_tensors)


def _look_again(module: nn.Module, _keys: object) -> None:
    assert isinstance(module, Quantizer)
    module._ready = False
