"""The widest sums that the weights of a file, and the range of its codes, allow."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx

from qatc.simulator.run import folded
from qatc.simulator.values import Array, Grid, OnGrid, Value
from qatc.targets.lint.graph import GraphView, Node

ADDING = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that add products."""

# What carries codes from DequantizeLinear to a layer, for their range.
_CARRIERS = frozenset({
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Slice", "Identity", "Gather", "Expand",
    "DepthToSpace", "Tile", "GatherElements", "ReduceMax", "Pad",
})  # fmt: skip


@dataclass(frozen=True)
class WorstCase:
    """The products that a layer adds, the least and greatest sum, and pairs of weights: all, and those too wide."""

    name: str
    op: str
    terms: int
    ends: tuple[int, int]
    pairs: int
    saturating: int


def worst_cases(proto: onnx.ModelProto) -> Iterator[WorstCase]:
    """Yield what is known without data of each layer between grids."""
    view, constants = GraphView(proto), folded(proto)
    for node in view.nodes:
        x, weight = _codes(view, constants, node.input(0)), constants.get(node.input(1))
        if node.op not in ADDING or x is None:
            continue
        if isinstance(weight, OnGrid):
            yield _row(view, constants, node, x, weight)
        elif (y := _codes(view, constants, node.input(1))) is not None and node.op == "MatMul":
            terms = (view.dims(node.input(0)) or (None,))[-1] or (view.dims(node.input(1)) or (None, None))[-2]
            if terms is not None:
                corners = [a * b for a in x.range for b in y.range]
                ends = min(0, terms * min(corners)), max(0, terms * max(corners))
                yield WorstCase(node.name, node.op, terms, ends, 0, 0)


@dataclass(frozen=True)
class _Codes:
    """Codes of an activation: their grid, and their range in steps, zero included: images are padded with it."""

    grid: Grid
    range: tuple[int, int]


def _codes(view: GraphView, constants: Mapping[str, Value], tensor: str) -> _Codes | None:
    """Return what is known of the codes that a tensor holds; None for one that is not on one grid."""
    node = view.producer(view.source(tensor, _CARRIERS))
    if node is None or node.op != "DequantizeLinear" or view.is_constant(node.output):
        return None
    scale, zero = (constants.get(node.input(i)) for i in (1, 2))
    if scale is None or zero is None or scale.real().size != 1:
        return None
    grid = Grid(scale.real().reshape(()), zero.real().reshape(()))
    info = ml_dtypes.iinfo(grid.zero_point.dtype)
    low, high = int(info.min), int(info.max)
    clip = view.producer(view.source(node.input(0), _CARRIERS))
    if clip is not None and clip.op == "Clip":
        ends = [constants[name].real().item() for name in clip.inputs[1:] if name in constants]
        low, high = (ends[0], ends[1]) if len(ends) == 2 else (low, high)
    zero_point = int(grid.zero_point)
    return _Codes(grid, (min(0, low - zero_point), max(0, high - zero_point)))


def _row(view: GraphView, constants: Mapping[str, Value], node: Node, x: _Codes, weight: OnGrid) -> WorstCase:
    matrix = _matrix(node, weight.steps.astype(np.int64))
    (low, high), up, down = x.range, np.maximum(matrix, 0).sum(1), np.minimum(matrix, 0).sum(1)
    bias = _bias(view, constants, node, x.grid.scale * weight.grid.scale.reshape(-1))
    # Zero is within the range, so that no part of a sum reaches further than all of its products of one sign.
    least, greatest = up * low + down * high + np.minimum(bias, 0), up * high + down * low + np.maximum(bias, 0)
    pairs, saturating = _pairs(node, matrix, x, weight)
    ends = int(least.min()), int(greatest.max())
    return WorstCase(node.name, node.op, matrix.shape[1], ends, pairs, saturating)


def _matrix(node: Node, weight: Array) -> Array:
    """Return a weight as [output channels, products], its inputs last: neighbours are multiplied together."""
    match node.op:
        case "Conv":
            return np.moveaxis(weight, 1, -1).reshape(len(weight), -1)
        case "ConvTranspose":
            groups = node.integer("group") or 1
            split = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
            return np.moveaxis(split, 1, -1).reshape(groups * weight.shape[1], -1)
        case "Gemm" if node.integer("transB"):
            return weight
    return weight.swapaxes(-1, -2).reshape(-1, weight.shape[-2])


def _bias(view: GraphView, constants: Mapping[str, Value], node: Node, scale: Array) -> Array:
    """Return the bias in steps of the sums; that of a MatMul is added behind it."""
    found = constants.get(node.input(2))
    if node.op == "MatMul":
        readers = [reader for reader in view.consumers(node.output) if reader.op == "Add"]
        added = [constants.get(name) for reader in readers for name in reader.inputs]
        found = next((value for value in added if isinstance(value, OnGrid) and value.grid.bits == 32), None)
    if found is None:
        return np.zeros(1, np.int64)
    steps: Array = np.rint(found.real().astype(np.float64) / scale).astype(np.int64).reshape(-1)
    return steps


def _pairs(node: Node, matrix: Array, x: _Codes, weight: OnGrid) -> tuple[int, int]:
    """Return pairs of neighbouring weights, and those whose two products 16 bits may not hold.

    One factor is a code of the activation without its sign (signed ones are shifted by 128), the other the weight's.
    """
    depthwise = node.op == "Conv" and weight.steps.shape[1] == 1
    if depthwise or max(x.grid.bits, weight.grid.bits) > 8:
        return 0, 0
    even = matrix[:, : matrix.shape[1] // 2 * 2].reshape(len(matrix), -1, 2)
    greatest = x.range[1] + int(x.grid.zero_point) - int(ml_dtypes.iinfo(x.grid.zero_point.dtype).min)
    above = greatest * np.maximum(even, 0).sum(-1) > np.iinfo(np.int16).max
    below = greatest * np.minimum(even, 0).sum(-1) < np.iinfo(np.int16).min
    return even.shape[0] * even.shape[1], int(np.count_nonzero(above | below))
