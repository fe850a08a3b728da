"""QuantizeLinear and DequantizeLinear."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qatc.simulator.node import Form, Node
from qatc.simulator.values import Array, Grid, OnGrid, Plain, Value


def _is_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" or dtype.name in ("int4", "uint4", "int2", "uint2")


def _quantize(node: Node, x: Value, scale: Value, zero_point: Value | None = None) -> Value | None:
    zero = np.zeros(scale.real().shape, np.uint8) if zero_point is None else zero_point.real()
    if not _is_integer(zero.dtype) or node.get("block_size", 0):
        return None
    real = scale.real()
    grid = _grid(node, real, zero, x.real().ndim if real.ndim else 0)
    return Plain(x.on(grid, node.numerics).codes())


def _dequantize(node: Node, codes: Value, scale: Value, zero_point: Value | None = None) -> Value | None:
    array = codes.real()
    if not _is_integer(array.dtype):
        return None
    block = node.get("block_size", 0)
    zero = np.zeros(scale.real().shape, array.dtype) if zero_point is None else zero_point.real()
    if block:
        axis = node.get("axis", 1)
        scales, zeros = (np.repeat(v.astype(np.float32), block, axis) for v in (scale.real(), zero))
        whole = tuple(slice(size) for size in array.shape)
        return Plain(((array.astype(np.float32) - zeros[whole]) * scales[whole]).astype(scale.real().dtype))
    grid = _grid(node, scale.real(), zero, array.ndim)
    return OnGrid((array.astype(np.int64) - grid.along(array.ndim)[1]).astype(np.int32), grid)


def _grid(node: Node, scale: Array, zero_point: Array, rank: int) -> Grid:
    axis = node.get("axis", 1) % rank if scale.ndim else 0
    return Grid(scale.astype(np.float32), zero_point, axis, scale.dtype)


QUANTIZE: Mapping[str, Form] = {"QuantizeLinear": _quantize, "DequantizeLinear": _dequantize}
