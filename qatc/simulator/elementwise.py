"""Sums and products of two tensors, clips, and functions of one, by ONNX Runtime's kernels for codes of 8 bits.

Sources: onnxruntime core/mlas/lib/intrinsics/avx2/qladd_avx2.cpp, core/mlas/lib/qlmul.cpp, and
contrib_ops/cpu/quantization/qlinear_lookup_table.cc.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qatc.simulator.node import Form, Node
from qatc.simulator.numerics import Numerics
from qatc.simulator.sums import with_bias
from qatc.simulator.values import Array, Bounded, Grid, OnGrid, Plain, Sums, Value


def _narrow(*grids: Grid) -> bool:
    """Say whether integer kernels take them: one scale, 8 bits."""
    return all(grid.per_tensor and grid.bits <= 8 for grid in grids)


@dataclass(frozen=True, eq=False)
class _Pair(Value):
    """Two tensors on grids, and what becomes of their real values."""

    x: OnGrid
    y: OnGrid


class _Added(_Pair):
    """QLinearAdd multiplies each code by its own ratio of scales, and adds the zero points as one constant."""

    def real(self) -> Array:
        """Return the sum, float32."""
        return self.x.real() + self.y.real()

    def on(self, grid: Grid, numerics: Numerics) -> OnGrid:
        """Return codes rounded with the zero point in the sum; each multiply-add rounds once."""
        if not _narrow(self.x.grid, self.y.grid, grid):
            return super().on(grid, numerics)
        (x, x_ratio, x_zero), (y, y_ratio, y_zero) = (
            (value.codes().astype(np.float64), *_ratio(value.grid, grid)) for value in (self.x, self.y)
        )
        zero = np.float64(grid.zero_point.reshape(()))
        fixed = np.float32(zero - np.float32(x_ratio * x_zero + np.float32(y_ratio * y_zero)))
        if _repeats(y, x):  # the kernel for one number and many adds that number to the constant first
            first, second = _rounded_once(fixed + np.float32(y * y_ratio)), x * x_ratio
        elif _repeats(x, y):
            first, second = _rounded_once(fixed + np.float32(x * x_ratio)), y * y_ratio
        else:
            first, second = _rounded_once(y * y_ratio + fixed), x * x_ratio
        total = numerics.rounded(_rounded_once(second + first))
        return OnGrid(grid.limited(total - zero), grid)


def _rounded_once(exact: Any) -> Array:
    return np.asarray(exact).astype(np.float32).astype(np.float64)


def _ratio(grid: Grid, other: Grid) -> tuple[np.float64, np.float64]:
    ratio = np.float32(grid.scale.reshape(())) / np.float32(other.scale.reshape(()))
    return np.float64(ratio), np.float64(grid.zero_point.reshape(()))


def _repeats(small: Array, large: Array) -> bool:
    """Say whether each of the one's numbers meets a whole row of the other's."""
    inner = small.shape[-1] if small.ndim else 1
    return inner == 1 and large.ndim > 0 and large.shape[-1] > 1


class _Multiplied(_Pair):
    """QLinearMul multiplies steps exactly, and then by one ratio of scales."""

    def real(self) -> Array:
        """Return the product, float32."""
        return self.x.real() * self.y.real()

    def on(self, grid: Grid, numerics: Numerics) -> OnGrid:
        """Return codes rounded with the zero point in the sum."""
        if not _narrow(self.x.grid, self.y.grid, grid):
            return super().on(grid, numerics)
        ratio = self.x.grid.scale.reshape(()) * self.y.grid.scale.reshape(()) / grid.scale.reshape(())
        zero = np.float32(grid.zero_point.reshape(()))
        scaled = (self.x.steps * self.y.steps).astype(np.float32) * ratio + zero
        return OnGrid(grid.limited(numerics.rounded(scaled) - zero), grid)


def _add(node: Node, x: Value, y: Value) -> Value | None:
    for sums, bias in ((x, y), (y, x)):
        if isinstance(sums, Sums) and isinstance(bias, OnGrid) and bias.grid.bits == 32:
            found = with_bias(sums, bias.real())
            return found if isinstance(found, Sums) else None
    if isinstance(x, OnGrid) and isinstance(y, OnGrid):
        return _Added(x, y)
    return None


def _multiply(node: Node, x: Value, y: Value) -> Value | None:
    return _Multiplied(x, y) if isinstance(x, OnGrid) and isinstance(y, OnGrid) else None


def _relu(node: Node, x: Value) -> Value | None:
    return None if isinstance(x, Plain) else Bounded(x, 0.0, math.inf)


def _clip(node: Node, x: Value, low: Value | None = None, high: Value | None = None) -> Value | None:
    if isinstance(x, Plain):
        return None
    ends = [
        node.get(name, default) if value is None else float(value.real())
        for value, name, default in ((low, "min", -math.inf), (high, "max", math.inf))
    ]
    return Bounded(x, *ends)


@dataclass(frozen=True, eq=False)
class Table(Value):
    """A function of codes: its value for each code, and the codes."""

    codes: Array
    values: Array

    def real(self) -> Array:
        """Look up."""
        found: Array = self.values[self.codes]
        return found

    def on(self, grid: Grid, numerics: Numerics) -> OnGrid:
        """Look up codes."""
        return OnGrid(Plain(self.values).on(grid, numerics).steps[self.codes], grid)


def table(x: OnGrid, function: Callable[[Array], Array]) -> Table | None:
    """Return a function of a tensor of 8 bits as a table of all its codes."""
    if not _narrow(x.grid):
        return None
    info = np.iinfo(x.grid.zero_point.dtype)
    zero = int(x.grid.zero_point.reshape(()))
    every = OnGrid(np.arange(info.min - zero, info.max - zero + 1, dtype=np.int32), x.grid)
    return Table(x.codes().astype(np.int64) - info.min, function(every.real()))


# Value by value, with no input but the tensor: for codes of 8 bits a table of 256.
FUNCTIONS = frozenset({
    "Sigmoid", "LeakyRelu", "HardSwish", "HardSigmoid", "Tanh", "Elu", "Celu", "Selu", "Erf", "Gelu", "Mish",
    "Softplus", "Softsign", "Exp", "Sqrt", "Reciprocal", "Abs", "Neg", "Swish",
})  # fmt: skip

ELEMENTWISE: Mapping[str, Form] = {"Add": _add, "Mul": _multiply, "Relu": _relu, "Clip": _clip}
