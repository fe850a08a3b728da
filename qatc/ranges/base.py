"""What every range estimator shares: it is shown batches, and says which range a grid should cover."""

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from qatc import native
from qatc.ranks import Join, join
from qatc.spec import QuantSpec


class Range(NamedTuple):
    """The least and greatest value to cover, float32: 0-d, or [channels]; NaN while nothing was seen."""

    low: Tensor
    high: Tensor


class RangeEstimator(nn.Module):
    """Collects what a tensor holds, batch by batch, and chooses the range that its grid covers.

    All state is in buffers, one row a channel ([1, ...] where there is one range for the tensor). `collect` is the only
    thing that moves it. Values that are not finite (a step that overflowed, which gradient scaling skips) leave it as
    it is. `reduce` makes the state of all ranks of a process group that of everything that any of them saw.

    `option` names the constructor's one number, if it has one (`percentile:99.9`); `cheap` says whether the estimator
    can follow the data of every training step.
    """

    option: ClassVar[str | None] = None
    cheap: ClassVar[bool] = False

    def __init__(self, spec: QuantSpec, channels: int = 1, **option: Any) -> None:
        super().__init__()
        self.spec, self.channels = spec, channels

    def collect(self, x: Tensor) -> None:
        """Take in a batch, of any shape; along `spec.axis` it has `channels` entries."""
        raise NotImplementedError

    def range(self) -> Range:
        """Return the range chosen for what was collected so far."""
        raise NotImplementedError

    def states(self) -> Iterable[tuple[Tensor, Join]]:
        """Return the tensors that `collect` moves, each with how the ranks' values of it become one."""
        raise NotImplementedError

    def reduce(self) -> None:
        """Join what the ranks collected."""
        join(self.states())

    def _rows(self, x: Tensor) -> Tensor:
        """Return x as float32 [channels, values]."""
        return rows_of(x.detach(), self.spec.axis).float()

    def _found(self, low: Tensor, high: Tensor) -> Range:
        """Return a range in the shape that the spec asks for."""
        return Range(low[0], high[0]) if self.spec.axis is None else Range(low, high)

    def extra_repr(self) -> str:
        """Show the spec in print(model)."""
        return str(self.spec)


def rows_of(x: Tensor, axis: int | None) -> Tensor:
    """Return x as [channels, values]; one row where there is no axis.

    Raises:
        ValueError: it has no values, so no range.

    """
    if x.numel() == 0:
        raise ValueError("an empty tensor has no range")
    return x.reshape(1, -1) if axis is None else x.movedim(axis, 0).reshape(x.shape[axis], -1)


def extremes(x: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest value, float32 [channels]; where a grid can only begin or end, none beyond."""
    low, high = _ends(x, spec.axis)
    if spec.upper is not None:
        high = high.clamp(max=spec.upper)
    if spec.symmetric and not spec.signed:
        return torch.zeros_like(high), high.clamp(min=0.0)
    return low, high


def _ends(x: Tensor, axis: int | None) -> tuple[Tensor, Tensor]:
    if native.takes(x, axis):
        low, high = native.extremes(x, axis)
        return low, high
    # By two reductions: `torch.aminmax` along a dimension takes 25 times as long on a CPU, and a tensor that lies in
    # channels-last order is not copied if it is reduced as it is.
    if axis is None and x.numel():
        return x.amin().float().view(1), x.amax().float().view(1)
    rows = rows_of(x, axis)
    return rows.amin(1).float(), rows.amax(1).float()
