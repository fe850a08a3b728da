"""What every quantizer shares: when it records, when it moves, when it quantizes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from qatc.compiled import as_it_is_now
from qatc.errors import CalibrationError
from qatc.quantizers.fake_quantize import fake_quantize
from qatc.quantizers.grid import Grid, codes
from qatc.ranks import Join
from qatc.spec import QuantSpec


class Quantizer(nn.Module):
    """A fake quantizer of one tensor, or of several that share a grid (each call site of them has its number).

    Recording (`qatc.calibrate`) only collects ranges and passes x through. Otherwise ranges move in training mode
    alone, while `observing`, and not again where checkpointing recomputes a batch; `eval()` changes nothing. Before it
    has a range, a quantizer passes x through.

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
        if self.recording:
            self.record(x.detach(), site)
            self._ready = False
            return x
        if self.training and self.observing and not recomputing():
            self.observe(x.detach(), site)
        if not self.enabled or not self.ready:
            return x
        return self.quantize(x, Grid(*map(as_it_is_now, self.grid(x.detach(), gain, floor))))

    @property
    def ready(self) -> bool:
        """Whether there is a range to quantize with."""
        if not self._ready:
            self._ready = self._has_range()
        return self._ready

    def codes(self, x: Tensor, gain: Tensor | None = None, floor: Tensor | None = None) -> Tensor:
        """Return the integer codes of x, as float32."""
        return codes(x, self.checked_grid(x, gain, floor), self.spec)

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
        return fake_quantize(x, grid, self.spec)

    def record(self, x: Tensor, site: int) -> None:
        """Collect what `settle` needs from one batch; each quantizer defines its own."""
        raise NotImplementedError

    def recorded(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the state that `record` moved, each with how the ranks' values of it become one."""
        return ()

    def observed(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the state that `observe` moves, likewise."""
        return ()

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


def recomputing() -> bool:
    """Say whether this forward pass runs inside a backward pass: activation checkpointing sees a batch again."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def _look_again(module: nn.Module, _keys: object) -> None:
    assert isinstance(module, Quantizer)
    module._ready = False
