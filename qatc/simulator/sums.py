"""Sums of products of codes: exact, by the matrix products of floats that are wide enough to hold them."""

from typing import Any

import numpy as np

from qatc.simulator.values import Array, Grid, Plain, Sums, Value

# Whole numbers below are exact in float32, and so are sums of them in any order; float64 holds all that occur.
_EXACT = 2.0**24
_INT32 = 2.0**31


def holding(x: Array, weight: Array, terms: int) -> Any:
    """Return the type whose sums of so many products of the two are exact."""
    most = float(np.abs(x).max(initial=0)) * float(np.abs(weight).max(initial=0)) * terms
    return np.float32 if most < _EXACT else np.float64


def scale_of(x: Grid, weight: Grid) -> Array:
    """Return what one of a sum stands for, in float32; per channel where the weight's scale is."""
    return x.scale.reshape(()) * weight.scale.reshape(-1 if weight.scale.size > 1 else ())


def with_bias(sums: Array, scale: Array, bias: Value | None, narrow: bool) -> Value:
    """Return sums and a bias that broadcasts over them, in integers where it lies on their grid.

    Of codes of 8 bits (`narrow`) sums are int32, and run over as those do. A bias off the grid is added in float32.
    """
    if bias is None:
        return Sums(held(sums, narrow), scale)
    real = bias.real()
    steps = np.rint(real / scale)
    if not np.array_equal((steps * scale).astype(np.float32), real):
        return Plain(Sums(held(sums, narrow), scale).real() + real)
    return Sums(held(sums + steps.astype(np.float64), narrow), scale)


def held(sums: Array, narrow: bool) -> Array:
    """Return sums as int32 holds them, or as they are."""
    if narrow and float(np.abs(sums).max(initial=0)) >= _INT32:
        return sums.astype(np.int64).astype(np.int32)
    return sums
