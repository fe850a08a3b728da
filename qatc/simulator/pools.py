"""Average pools, by ONNX Runtime's kernels for codes of 8 bits.

Sources: onnxruntime core/mlas/lib/qlgavgpool.cpp and contrib_ops/cpu/quantization/qlinear_pool.cc.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from qatc.simulator.node import Form, Node
from qatc.simulator.numerics import Numerics
from qatc.simulator.values import Array, Grid, OnGrid, Value


@dataclass(frozen=True, eq=False)
class _GlobalMean(Value):
    """Integer sums over all positions; the count divides the ratio of scales."""

    sums: Array
    count: int
    grid: Grid

    def real(self) -> Array:
        """Return the means, float32."""
        mean = self.sums.astype(np.float32) * self.grid.scale.reshape(()) / np.float32(self.count)
        return mean.astype(self.grid.real, copy=False)

    def on(self, grid: Grid, numerics: Numerics) -> OnGrid:
        """Requantize the sums."""
        factor = self.grid.scale.reshape(()) / (grid.scale.reshape(()) * np.float32(self.count))
        return OnGrid(grid.limited(numerics.requantized(self.sums, factor)), grid)


@dataclass(frozen=True, eq=False)
class _Means(Value):
    """Means of windows, float32 as the kernel adds them; it rounds them with the zero point in the sum."""

    means: Array
    type: Any

    def real(self) -> Array:
        """Return the means."""
        return self.means.astype(self.type, copy=False)

    def on(self, grid: Grid, numerics: Numerics) -> OnGrid:
        """Quantize the means."""
        if grid.bits > 8:
            return super().on(grid, numerics)
        zero = np.float32(grid.zero_point.reshape(()))
        whole = numerics.rounded(self.means / grid.scale.reshape(()) + zero)
        return OnGrid(grid.limited(whole - zero), grid)


def _global_average(node: Node, x: Value) -> Value | None:
    if not isinstance(x, OnGrid) or not x.grid.per_tensor or x.grid.bits > 8:
        return None
    positions = tuple(range(2, x.steps.ndim))
    sums = x.steps.sum(positions, dtype=np.int64, keepdims=True)
    return _GlobalMean(sums, int(np.prod(x.steps.shape[2:])), x.grid)


def _average(node: Node, x: Value) -> Value | None:
    if not isinstance(x, OnGrid) or not x.grid.per_tensor or x.grid.bits > 8:
        return None
    kernel = node.get("kernel_shape", None)
    ones = [1] * len(kernel)
    strides, pads = node.get("strides", ones), node.get("pads", [0] * (2 * len(kernel)))
    if node.get("auto_pad", "NOTSET") != "NOTSET" or node.get("dilations", ones) != ones:
        return None
    real, half = x.real().astype(np.float32), len(kernel)
    rounds_up = bool(node.get("ceil_mode", 0))
    sizes = []
    for size, k, s, front, back in zip(real.shape[2:], kernel, strides, pads[:half], pads[half:], strict=True):
        room = size + front + back - k
        count = (-(-room // s) if rounds_up else room // s) + 1
        sizes.append(count - 1 if rounds_up and (count - 1) * s >= size + front else count)
    reach = [(n - 1) * s + k for n, s, k in zip(sizes, strides, kernel, strict=True)]
    widths = [
        (front, max(0, r - front - size)) for r, front, size in zip(reach, pads[:half], real.shape[2:], strict=True)
    ]
    padded = np.pad(real, [(0, 0), (0, 0), *widths])
    inside = np.pad(np.ones(real.shape[2:], np.float32), widths)
    every = (slice(None), slice(None))
    sums: Array = np.zeros((*real.shape[:2], *sizes), np.float32)
    counts: Array = np.zeros(sizes, np.float32)
    for place in product(*map(range, kernel)):  # in the kernel's order; adding zeros changes nothing
        at = tuple(slice(k, k + s * n, s) for k, s, n in zip(place, strides, sizes, strict=True))
        sums = sums + padded[(*every, *at)]
        counts = counts + inside[at]
    if node.get("count_include_pad", 0):
        counts = np.full(sizes, np.prod(kernel), np.float32)
    return _Means(sums / counts, x.grid.real)


POOLS: Mapping[str, Form] = {"GlobalAveragePool": _global_average, "AveragePool": _average}
