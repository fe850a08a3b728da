"""Sums of products of codes: exact, by the matrix products of floats that are wide enough to hold them."""

from dataclasses import replace
from typing import Any

import numpy as np

from qatc.simulator.values import Array, OnGrid, Plain, Sums, Value

# Whole numbers below are exact in float32, and so are sums of them in any order; float64 holds all that occur.
_EXACT = 2.0**24
_INT32 = 2.0**31


def holding(x: Array, weight: Array, terms: int) -> Any:
    """Return the type whose sums of so many products of the two are exact."""
    most = float(np.abs(x).max(initial=0)) * float(np.abs(weight).max(initial=0)) * terms
    return np.float32 if most < _EXACT else np.float64


def finished(sums: Array, x: OnGrid, weight: OnGrid, bias: Value | None, channel: int = -1) -> Value:
    """Return the sums of products of two tensors, and a bias along the dimension `channel`, if there is one.

    It is added in integers where it lies on their grid, in float where it does not.
    """
    shape = [1] * sums.ndim
    shape[channel] = -1
    scale = x.grid.scale.reshape(()) * weight.grid.scale.reshape(shape if weight.grid.scale.size > 1 else ())
    of = Sums(sums, scale, x.grid.real, max(x.grid.bits, weight.grid.bits) <= 8)
    if bias is None:
        return held(of)
    real = bias.real()
    return with_bias(of, real if real.ndim != 1 else real.reshape(shape))


def with_bias(of: Sums, bias: Array) -> Value:
    """Return sums and a bias that broadcasts over them."""
    steps = np.rint(bias / of.scale)
    if not np.array_equal((steps * of.scale).astype(of.type), bias):
        return Plain(held(of).real() + bias)
    return held(replace(of, sums=of.sums + steps.astype(np.float64)))


def held(of: Sums) -> Sums:
    """Return sums as an accumulator holds them."""
    if of.narrow and float(np.abs(of.sums).max(initial=0)) >= _INT32:
        return replace(of, sums=of.sums.astype(np.int64).astype(np.int32))
    return of
