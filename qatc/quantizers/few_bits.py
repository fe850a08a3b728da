"""Weights of two and of three values."""

from typing import ClassVar

import torch
from torch import Tensor

from qatc.grid import Grid, finish_scale, per_channel
from qatc.quantizers.fake_quantize import straight_through
from qatc.quantizers.weight import WeightQuantizer
from qatc.ranges.base import rows_of


class _FewValues(WeightQuantizer):
    """A weight as codes from {-1, 0, 1} times a scale, both read off it at each forward; the gradient passes."""

    own_range: ClassVar[bool] = True
    transforms: ClassVar[bool] = True

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the mean magnitude, per channel or in all; x has its gain already."""
        rows = rows_of(x, self.spec.axis).float()
        scale = self._scale(rows)
        scale = finish_scale(scale if self.spec.axis is not None else scale[0], self.spec, floor)
        return Grid(scale, torch.zeros_like(scale))

    def values(self, x: Tensor, grid: Grid, gain: Tensor | None) -> Tensor:
        """Return the values of the grid."""
        rows = rows_of(x.detach(), self.spec.axis).float()
        levels = self._levels(rows)
        levels = levels.view_as(x) if self.spec.axis is None else _as(levels, x, self.spec.axis)
        return straight_through(x, (levels * per_channel(grid.scale, x, self.spec.axis)).to(x.dtype))

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Return x, which lies on the grid."""
        return x

    def clamp(self, x: Tensor, grid: Grid) -> Tensor:
        """Return x: there is nothing between clamped and quantized."""
        return x

    def _levels(self, rows: Tensor) -> Tensor:
        """Return -1, 0 or 1 for each value, [grids, values]."""
        raise NotImplementedError

    def _scale(self, rows: Tensor) -> Tensor:
        """Return the scale of each grid."""
        raise NotImplementedError


class Binary(_FewValues):
    """sign(w) mean|w|, the nearest of the form a b with b in {-1, 1} (Rastegari et al., arXiv:1603.05279, equation 6).

    Zero counts as positive. The gradient passes as it is (DoReFa-Net, Zhou et al., arXiv:1606.06160, equation 7).
    """

    widths: ClassVar[range] = range(1, 2)

    def _levels(self, rows: Tensor) -> Tensor:
        return torch.where(rows < 0, -1.0, 1.0)

    def _scale(self, rows: Tensor) -> Tensor:
        return rows.abs().mean(1)


class Ternary(_FewValues):
    """0 up to the threshold 0.7 mean|w|, beyond it sign(w) times the mean of the magnitudes beyond.

    Ternary weight networks (Li et al., arXiv:1605.04711, equations 5 and 6); the gradient passes as it is.
    """

    widths: ClassVar[range] = range(2, 3)

    def _levels(self, rows: Tensor) -> Tensor:
        return rows.sign() * (rows.abs() > self._threshold(rows))

    def _scale(self, rows: Tensor) -> Tensor:
        magnitude = rows.abs()
        beyond = magnitude > self._threshold(rows)
        return (magnitude * beyond).sum(1) / beyond.sum(1).clamp(min=1)

    @staticmethod
    def _threshold(rows: Tensor) -> Tensor:
        return 0.7 * rows.abs().mean(1, keepdim=True)


def _as(rows: Tensor, like: Tensor, axis: int) -> Tensor:
    """Return [channels, values] in the shape that they were taken from."""
    moved = like.movedim(axis, 0)
    return rows.view(moved.shape).movedim(0, axis)
