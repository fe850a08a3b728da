"""Reading Q/DQ pairs and weighted operators off a graph."""

import math
from collections.abc import Iterator
from typing import NamedTuple, TypeGuard

import numpy as np
import onnx

from qatc.targets.lint.graph import Array, GraphView, Node

# The spellings of one operator: ONNX's, ONNX Runtime's extension, and what TensorRT's exporters write for FP8 and INT4.
QUANTIZE = frozenset(
    {
        "QuantizeLinear",
        "com.microsoft::QuantizeLinear",
        "trt::TRT_FP8QuantizeLinear",
        "trt::TRT_INT4QuantizeLinear",
    }
)
DEQUANTIZE = frozenset(op.replace("Quantize", "Dequantize") for op in QUANTIZE)

# These move values without making new ones, so a Q or DQ can stand on either side.
MOVES = frozenset(
    {
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "MaxPool",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
# Pad adds zeros, which any symmetric scale holds; the others leave the values alone.
PASSES = MOVES | {"Cast", "Dropout", "Identity", "Pad"}

_FOUR_BIT = frozenset({onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1})
_TRT_TYPES = {
    "trt::TRT_FP8QuantizeLinear": onnx.TensorProto.FLOAT8E4M3FN,
    "trt::TRT_INT4QuantizeLinear": onnx.TensorProto.INT4,
}


def is_q(node: Node | None) -> TypeGuard[Node]:
    """Whether the node quantizes."""
    return node is not None and node.op in QUANTIZE


def is_dq(node: Node | None) -> TypeGuard[Node]:
    """Whether the node dequantizes."""
    return node is not None and node.op in DEQUANTIZE


def pairs(view: GraphView) -> Iterator[Node]:
    """Every Q and every DQ."""
    return (node for node in view.nodes if is_q(node) or is_dq(node))


def is_four_bit(dtype: int | None) -> bool:
    """Whether two codes of this type share a byte."""
    return dtype in _FOUR_BIT


def code_type(view: GraphView, node: Node) -> int | None:
    """Element type of the codes that a Q makes or a DQ reads, ``None`` when the file does not say."""
    if is_dq(node):
        maker = view.producer(node.input(0))
        return code_type(view, maker) if is_q(maker) else view.dtype(node.input(0))
    if node.op in _TRT_TYPES:
        return _TRT_TYPES[node.op]
    if node.input(2):
        return view.dtype(node.input(2))
    return node.integer("output_dtype") or None


def axis_of(node: Node, default: int | None) -> int | None:
    """Return the axis that a Q or DQ writes, or the one that is read where it writes none."""
    return node.integer("axis") if "axis" in node.attributes else default


def size_of(view: GraphView, tensor: str) -> int | None:
    """Return how many numbers a tensor holds, ``None`` when a dimension is not known."""
    dims = view.dims(tensor)
    return None if dims is None else _product(dims)


def scale_of(view: GraphView, node: Node) -> Array | None:
    """Return the scales of a Q or DQ as float32, in a row; ``None`` when they are not known."""
    value = view.value(node.input(1))
    return None if value is None else value.astype(np.float32).reshape(-1)


def zero_point_of(view: GraphView, node: Node) -> Array | None:
    """Return the zero points of a Q or DQ in a row, zero where it has none; ``None`` when they are not known."""
    if not node.input(2):
        return np.zeros(1, np.int64)
    value = view.value(node.input(2))
    if value is None:
        return None
    with np.errstate(invalid="ignore"):  # a NaN of some 8-bit float: whatever it becomes, it is not zero
        return value.astype(np.float32).astype(np.int64).reshape(-1)


def scale_size(view: GraphView, node: Node) -> int | None:
    """Return the number of scales: one is per tensor, whatever the rank of the initializer."""
    return size_of(view, node.input(1))


def same_scale(view: GraphView, one: Node, other: Node) -> bool | None:
    """Whether two Q/DQ nodes scale by the same numbers, bit by bit; ``None`` when a number is unknown."""
    if one.input(1) == other.input(1):
        return True
    left, right = view.value(one.input(1)), view.value(other.input(1))
    if left is None or right is None:
        return None
    # Widening is exact, so an f16 and an f32 initializer of one value count as equal.
    return np.array_equal(_flat(left), _flat(right))


def same_grid(view: GraphView, one: Node, other: Node) -> bool | None:
    """Whether two Q/DQ nodes have the same codes for the same numbers; ``None`` when that is unknown."""
    scales = same_scale(view, one, other)
    types = code_type(view, one), code_type(view, other)
    left, right = zero_point_of(view, one), zero_point_of(view, other)
    if scales is False or (None not in types and types[0] != types[1]):
        return False
    if left is not None and right is not None and not np.array_equal(left, right):
        return False
    return None if scales is None or None in types or left is None or right is None else True


def unquantized(view: GraphView, tensor: str) -> str:
    """Return the float tensor behind any number of Q/DQ pairs."""
    while is_dq(dq := view.producer(tensor)) and is_q(q := view.producer(dq.input(0))):
        tensor = q.input(0)
    return tensor


def origin(view: GraphView, tensor: str) -> str:
    """Return the tensor behind any number of Q/DQ pairs and of ops that only move values."""
    while (before := view.source(unquantized(view, tensor), PASSES)) != tensor:
        tensor = before
    return tensor


def readers(view: GraphView, tensor: str) -> list[Node]:
    """Nodes that use a float tensor, seen through the Q/DQ pairs on it."""
    return list(view.sinks(tensor, QUANTIZE | DEQUANTIZE))


def dequantizer(view: GraphView, tensor: str) -> Node | None:
    """Return the DQ a tensor comes from, looking through ops that only move values."""
    maker = view.producer(view.source(tensor, PASSES))
    return maker if is_dq(maker) else None


def is_dequantized(view: GraphView, tensor: str) -> bool:
    """Whether a tensor carries dequantized values, also when a Concat gathers several such tensors."""
    found = False
    seen: set[Node] = set()
    waiting = [tensor]
    while waiting:
        origin = view.source(waiting.pop(), PASSES)
        maker = view.producer(origin)
        if maker is not None and maker.op == "Concat":
            if maker not in seen:
                seen.add(maker)
                waiting.extend(maker.inputs)
        elif is_dq(maker):
            found = True
        elif not view.is_constant(origin):
            return False
    return found


class Operands(NamedTuple):
    """Tensors that a weighted operator multiplies."""

    data: str
    weight: str


def operands(view: GraphView, node: Node | None) -> Operands | None:
    """Return data and weight of a Conv, a ConvTranspose, or a Gemm or MatMul with exactly one constant side."""
    if node is None or not node.input(0) or not node.input(1):
        return None
    first, second = node.input(0), node.input(1)
    if node.op in {"Conv", "ConvTranspose"}:
        return Operands(first, second)
    if node.op in {"Gemm", "MatMul"} and view.is_constant(first) != view.is_constant(second):
        return Operands(second, first) if view.is_constant(first) else Operands(first, second)
    return None


class Biased(NamedTuple):
    """A weighted operator and the tensor that is added to its products."""

    operator: Node
    bias: str


def biased(view: GraphView, node: Node) -> Biased | None:
    """Return the bias of a weighted op, or that which an Add puts right behind one, with no Q/DQ between."""
    if operands(view, node):
        return Biased(node, node.input(2)) if node.input(2) else None
    if node.op == "Add" and len(node.inputs) == 2:
        for bias, product in (node.inputs, node.inputs[::-1]):
            dims = view.dims(bias)
            is_vector = bool(dims) and sum(dim != 1 for dim in dims or ()) <= 1  # a number is no bias
            maker = view.producer(product)
            if is_vector and view.is_constant(bias) and maker is not None and operands(view, maker):
                return Biased(maker, bias)
    return None


def is_quantized(view: GraphView, node: Node) -> bool:
    """Whether a weighted operator multiplies dequantized data by dequantized weights."""
    found = operands(view, node)
    return found is not None and is_dequantized(view, found.data) and is_dequantized(view, found.weight)


class WeightUse(NamedTuple):
    """A weighted operator that reads a Q/DQ node's result as its weight, and where the channel axis ends up."""

    operator: Node
    axis: int | None


def weight_uses(view: GraphView, node: Node, default_axis: int | None = None) -> Iterator[WeightUse]:
    """Where a constant's Q or DQ serves as a weight; the axis is ``None`` when an op in between hides it.

    ``default_axis`` is that of a node which does not write its own.
    """
    if not view.is_constant(node.output):
        return
    dims = view.dims(node.input(0)) or view.dims(node.output)
    axis = axis_of(node, default_axis)
    if axis is not None and axis < 0:
        axis = axis + len(dims) if dims is not None else None
    waiting: list[tuple[str, int | None]] = [(node.output, axis)]
    seen: set[tuple[Node, int | None]] = set()
    while waiting:
        tensor, axis = waiting.pop()
        for reader in view.consumers(tensor):
            found = operands(view, reader)
            if found is not None and found.weight == tensor:
                yield WeightUse(reader, axis)
            elif (reader.op in PASSES or is_dq(reader)) and (reader, axis) not in seen:
                seen.add((reader, axis))
                waiting.extend((output, _moved_axis(reader, axis)) for output in reader.outputs)


def _moved_axis(node: Node, axis: int | None) -> int | None:
    if node.op in {"Identity", "Cast"} or is_dq(node):
        return axis
    order = node.integers("perm") if node.op == "Transpose" else None
    return order.index(axis) if order is not None and axis in order else None


def output_axis(view: GraphView, use: WeightUse) -> int | None:
    """Return the axis of a weight along which the operator's output channels lie, ``None`` when it is not known."""
    node, found = use.operator, operands(view, use.operator)
    if node.op in {"Conv", "ConvTranspose"}:
        return 0 if node.op == "Conv" else 1
    if found is None:
        return None
    second = found.weight == node.input(1)
    if node.op == "Gemm":
        transposed = bool(node.integer("transB" if second else "transA"))
        return int(second != transposed)
    dims = view.dims(found.weight)
    return None if dims is None or len(dims) < 2 else len(dims) - (1 if second else 2)


def _product(dims: tuple[int | None, ...]) -> int | None:
    known = [dim for dim in dims if dim is not None]
    return math.prod(known) if len(known) == len(dims) else None


def _flat(values: Array) -> Array:
    return values.astype(np.float64).reshape(-1)
