"""What every range estimator shares: it is shown batches, and says which range a grid should cover."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

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
    """

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__()
        self.spec, self.channels = spec, channels

    def collect(self, x: Tensor) -> None:
        """Take in a batch, of any shape; along `spec.axis` it has `channels` entries."""
        raise NotImplementedError

    def range(self) -> Range:
        """Return the range chosen for what was collected so far."""
        raise NotImplementedError

    def reduce(self) -> None:
        """Join what the ranks collected; each estimator says how."""
        raise NotImplementedError

    def _rows(self, x: Tensor) -> Tensor:
        """Return x as float32 [channels, values]."""
        if x.numel() == 0:
            raise ValueError("an empty tensor has no range")
        x = x.detach().float()
        if self.spec.axis is None:
            return x.reshape(1, -1)
        return x.movedim(self.spec.axis, 0).reshape(self.channels, -1)

    def _found(self, low: Tensor, high: Tensor) -> Range:
        """Return a range in the shape that the spec asks for."""
        return Range(low[0], high[0]) if self.spec.axis is None else Range(low, high)

    def extra_repr(self) -> str:
        """Show the spec in print(model)."""
        return str(self.spec)


def all_ranks() -> bool:
    """Say whether there is more than one process that trains this model."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1
