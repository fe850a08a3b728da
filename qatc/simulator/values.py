"""What a tensor is while a file is simulated: an array, codes on a grid, or sums that a grid will be found for."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from qatc.simulator.numerics import Numerics

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Grid:
    """Scale (float32) and zero point (of the codes' type): scalars, or one of each along `axis`.

    `real` is the type of the real values, that of the scale in the file.
    """

    scale: Array
    zero_point: Array
    axis: int = 0
    real: Any = np.float32

    @property
    def per_tensor(self) -> bool:
        """Whether there is one scale for all."""
        return self.scale.size == 1

    @property
    def bits(self) -> int:
        """Width of a code."""
        return int(ml_dtypes.iinfo(self.zero_point.dtype).bits)

    def along(self, rank: int) -> tuple[Array, Array]:
        """Return scale and zero point (int64), shaped to broadcast over a tensor of that rank."""
        if self.per_tensor:
            return self.scale.reshape(()), self.zero_point.astype(np.int64).reshape(())
        shape = [1] * rank
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.astype(np.int64).reshape(shape)

    def same(self, other: "Grid") -> bool:
        """Say whether equal codes mean equal values."""
        return (
            self.zero_point.dtype == other.zero_point.dtype
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
            and (self.per_tensor or self.axis == other.axis)
        )

    def limited(self, whole: Array) -> Array:
        """Return whole numbers of steps (zero is 0) as the codes can hold them, int32."""
        info = ml_dtypes.iinfo(self.zero_point.dtype)
        _, zero = self.along(whole.ndim)
        return np.clip(whole, int(info.min) - zero, int(info.max) - zero).astype(np.int32)

    def nearest(self, real: Array, numerics: Numerics) -> "OnGrid":
        """Return real values on this grid, as QuantizeLinear computes it in float32."""
        scale, _ = self.along(real.ndim)
        return OnGrid(self.limited(numerics.rounded(real.astype(np.float32) / scale)), self)


class Value(ABC):
    """A tensor of which both the real values and the codes on some grid can be asked."""

    @abstractmethod
    def real(self) -> Array:
        """Return the array that a float operator reads."""

    def on(self, grid: Grid, numerics: Numerics) -> "OnGrid":
        """Return the tensor on a grid."""
        return grid.nearest(self.real(), numerics)


@dataclass(frozen=True, eq=False)
class Plain(Value):
    """An array of floats, shapes or masks; or of codes, between QuantizeLinear and DequantizeLinear."""

    array: Array

    def real(self) -> Array:
        """Return the array."""
        return self.array


@dataclass(frozen=True, eq=False)
class OnGrid(Value):
    """Whole numbers of steps, int32: codes less their zero point."""

    steps: Array
    grid: Grid

    def real(self) -> Array:
        """Return steps times scale."""
        scale, _ = self.grid.along(self.steps.ndim)
        return (self.steps.astype(np.float32) * scale).astype(self.grid.real, copy=False)

    def codes(self) -> Array:
        """Return the codes, in their own type."""
        _, zero = self.grid.along(self.steps.ndim)
        return (self.steps + zero).astype(self.grid.zero_point.dtype)

    def on(self, grid: Grid, numerics: Numerics) -> "OnGrid":
        """Return the same codes if the grid is the same one."""
        return self if self.grid.same(grid) else super().on(grid, numerics)


@dataclass(frozen=True, eq=False)
class Sums(Value):
    """Accumulators, whole numbers in any type, bias included; one of them stands for `scale`, which broadcasts.

    `narrow` ones, of codes of 8 bits, are int32, and run over as those do; `type` is that of the real values.
    """

    sums: Array
    scale: Array
    type: Any = np.float32
    narrow: bool = True

    def real(self) -> Array:
        """Return sums times scale."""
        return (self.sums.astype(np.float32) * self.scale).astype(self.type, copy=False)

    def on(self, grid: Grid, numerics: Numerics) -> OnGrid:
        """Requantize, by one factor per channel."""
        scale, _ = grid.along(self.sums.ndim)
        return OnGrid(grid.limited(numerics.requantized(self.sums, self.scale / scale)), grid)


@dataclass(frozen=True, eq=False)
class Bounded(Value):
    """A clip: rounding is monotonic, so it limits codes to those of its ends."""

    value: Value
    low: float
    high: float

    def real(self) -> Array:
        """Return the values within the ends."""
        real = self.value.real()
        return np.clip(real, real.dtype.type(self.low), real.dtype.type(self.high))

    def on(self, grid: Grid, numerics: Numerics) -> OnGrid:
        """Return the codes, limited."""
        steps = self.value.on(grid, numerics).steps
        scale, _ = grid.along(steps.ndim)
        low, high = (grid.limited(numerics.rounded(np.float32(end) / scale)) for end in (self.low, self.high))
        return OnGrid(np.clip(steps, low, high), grid)


@dataclass(frozen=True, eq=False)
class Moved(Value):
    """What an operator that only moves values makes of tensors, whatever grid is asked for."""

    values: Sequence[Value]
    move: Callable[[Sequence[Array]], Array]

    def real(self) -> Array:
        """Move the real values."""
        return self.move([value.real() for value in self.values])

    def on(self, grid: Grid, numerics: Numerics) -> OnGrid:
        """Move codes on the grid; a grid per channel is for constants, which are quantized where they lie."""
        if not grid.per_tensor:
            return super().on(grid, numerics)
        return moved([value.on(grid, numerics) for value in self.values], self.move)


def moved(values: Sequence[OnGrid], move: Callable[[Sequence[Array]], Array]) -> OnGrid:
    """Return tensors of one grid, moved; as float32, which every operator takes and which holds 24 bits exactly."""
    steps = [value.steps.astype(np.float64 if value.grid.bits > 24 else np.float32) for value in values]
    return OnGrid(move(steps).astype(np.int32), values[0].grid)
