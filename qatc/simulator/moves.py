"""Operators that move values, and so codes: on whole numbers of steps, where zero is zero."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from qatc.simulator.values import Array, OnGrid, Value

# Which inputs hold the values; a place behind the last means all.
MOVES: Mapping[str, slice] = {
    **dict.fromkeys(
        (
            "MaxPool", "Reshape", "Transpose", "Identity", "Slice", "Gather", "GatherElements", "GatherND", "Expand",
            "Tile", "DepthToSpace", "SpaceToDepth", "Flatten", "Squeeze", "Unsqueeze", "ReduceMax", "ReduceMin",
            "GlobalMaxPool", "Pad", "Resize", "Split",
        ), slice(0, 1),
    ),
    "Concat": slice(0, None),
    "Max": slice(0, None),
    "Min": slice(0, None),
    "Where": slice(1, 3),
}  # fmt: skip
"""What only moves the real values that it reads, and so carries codes of one grid."""


def moves(op: str, attributes: Mapping[str, object], others: Sequence[Array | None]) -> bool:
    """Say whether the operator only moves values, with these attributes and these inputs behind the values."""
    if op == "Resize":
        return attributes.get("mode", b"nearest") == b"nearest"
    if op == "Pad":
        value = others[1] if len(others) > 1 else None
        mode = attributes.get("mode", b"constant")
        return mode != b"constant" or value is None or not np.any(value)
    return op in MOVES


def turned(x: OnGrid, order: Sequence[int]) -> OnGrid:
    """Return a tensor of one grid or of one per channel, its dimensions in another order."""
    axis = 0 if x.grid.per_tensor else list(order).index(x.grid.axis)
    return OnGrid(x.steps.transpose(order), replace(x.grid, axis=axis))


def alike(values: Sequence[Value]) -> bool:
    """Say whether all are codes of one grid."""
    first = values[0]
    return isinstance(first, OnGrid) and all(
        isinstance(v, OnGrid) and v.grid.per_tensor and v.grid.same(first.grid) for v in values
    )
