"""Gemm and MatMul, and the bias that is added behind a MatMul."""

from collections.abc import Mapping

import numpy as np

from qatc.simulator.node import Form, Node
from qatc.simulator.sums import finished, holding
from qatc.simulator.values import Array, OnGrid, Value


def _gemm(node: Node, x: Value, weight: Value, bias: Value | None = None) -> Value | None:
    plain = node.get("alpha", 1.0) == 1.0 and node.get("beta", 1.0) == 1.0 and not node.get("transA", 0)
    if not plain or not isinstance(x, OnGrid) or not isinstance(weight, OnGrid) or not x.grid.per_tensor:
        return None
    turned = bool(node.get("transB", 0))
    if not weight.grid.per_tensor and weight.grid.axis != (0 if turned else 1):
        return None
    sums = multiplied(x.steps, weight.steps.T if turned else weight.steps)
    return finished(sums, x, weight, bias)


def _matmul(node: Node, x: Value, weight: Value) -> Value | None:
    if not isinstance(x, OnGrid) or not isinstance(weight, OnGrid) or not x.grid.per_tensor:
        return None
    if not weight.grid.per_tensor and weight.grid.axis != weight.steps.ndim - 1:
        return None
    return finished(multiplied(x.steps, weight.steps), x, weight, None)


def multiplied(x: Array, y: Array) -> Array:
    """Return the matrix product of whole numbers, in floats that hold it exactly."""
    dtype = holding(x, y, x.shape[-1])
    product: Array = np.matmul(x.astype(dtype), y.astype(dtype))
    return product


PRODUCTS: Mapping[str, Form] = {"Gemm": _gemm, "MatMul": _matmul}
