"""Rules on single Q/DQ nodes and their constants that several targets share."""

from collections.abc import Collection, Mapping

import numpy as np
from onnx import TensorProto

from qatc.targets.lint.graph import Array, GraphView, Node
from qatc.targets.lint.qdq import (
    PASSES,
    axis_of,
    biased,
    code_type,
    dequantizer,
    is_dq,
    operands,
    output_axis,
    pairs,
    scale_of,
    scale_size,
    size_of,
    weight_uses,
    zero_point_of,
)
from qatc.targets.lint.rule import Violations

FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
EIGHT_BITS = frozenset({TensorProto.INT8, TensorProto.UINT8})
SIXTEEN_BITS = frozenset({TensorProto.INT16, TensorProto.UINT16})
# UINT2 and INT2 by number: onnx has their names only since 1.20.
FOUR_BITS = frozenset({TensorProto.INT4, TensorProto.UINT4, 25, 26})
# ONNX's own operators have these codes since (operator changelog: QuantizeLinear 13, 19, 21, 23, 25).
FIRST_OPSET: Mapping[int, int] = {
    TensorProto.FLOAT8E4M3FN: 19,
    TensorProto.FLOAT8E5M2: 19,
    TensorProto.INT16: 21,
    TensorProto.UINT16: 21,
    TensorProto.INT4: 21,
    TensorProto.UINT4: 21,
    TensorProto.FLOAT4E2M1: 23,
    25: 25,
    26: 25,
}


def type_name(dtype: int) -> str:
    """Return ONNX's name of an element type, or its number."""
    return TensorProto.DataType.Name(dtype) if dtype in TensorProto.DataType.values() else str(dtype)


def scales_are_constant(view: GraphView) -> Violations:
    """A scale is known before the network runs."""
    for node in pairs(view):
        scale = node.input(1)
        if scale and not view.is_constant(scale) and not is_dq(view.producer(scale)):
            # NVFP4 is the exception: its activations' block scales are themselves dequantized at run time.
            yield node, f"scale '{scale}' is computed at run time; store a calibrated scale as an initializer"


def scales_are_positive(view: GraphView) -> Violations:
    """A scale is a finite, positive float, with as many zero points as scales."""
    for node in pairs(view):
        scale = node.input(1)
        if (dtype := view.dtype(scale)) is not None and dtype not in FLOAT_TYPES:
            yield node, f"scale '{scale}' is not float32, float16 or bfloat16; store it as float32"
        elif (value := view.value(scale)) is not None and not _all_positive(value):
            yield node, f"scale '{scale}' has entries that are not finite and positive; recalibrate this tensor"
        sizes = scale_size(view, node), size_of(view, node.input(2))
        if None not in sizes and sizes[0] != sizes[1]:
            yield node, f"{sizes[0]} scale(s) but {sizes[1]} zero point(s); give one zero point a scale"


def scales_are_positive_constants(view: GraphView) -> Violations:
    """A scale is a constant, finite, positive float, with as many zero points as scales."""
    yield from scales_are_constant(view)
    yield from scales_are_positive(view)


def _all_positive(value: Array) -> bool:
    numbers = value.astype(np.float64)
    return numbers.size > 0 and bool((np.isfinite(numbers) & (numbers > 0)).all())


def scales_are_powers_of_two(view: GraphView) -> Violations:
    """Every scale of an activation or a weight is a power of two."""
    for node in pairs(view):
        scale = scale_of(view, node)
        if code_type(view, node) == TensorProto.INT32 or scale is None or is_power_of_two(scale):
            continue
        yield (
            node,
            f"scale {scale[np.frexp(scale)[0] != 0.5][0]:g} is no power of two; train with a -pow2 configuration",
        )


def is_power_of_two(scale: Array) -> bool:
    """Whether every number is a power of two."""
    return bool((np.frexp(scale)[0] == 0.5).all())


def activations_have_one_scale(view: GraphView, *, blocks: Collection[int] = ()) -> Violations:
    """A vector of scales stands only on a constant; codes of the types `blocks` may have block scales."""
    for node in pairs(view):
        size, dims = scale_size(view, node), view.dims(node.input(1))
        if size is None or dims is None or size == 1 or view.is_constant(node.input(0)):
            continue
        dtype = code_type(view, node)
        if len(dims) == 1 or not blocks or (dtype is not None and dtype not in blocks):
            yield node, f"{size} scales on an activation; give it one scale a tensor"


def constants_have_one_scale(view: GraphView, *, but: Collection[str] = ()) -> Violations:
    """A constant that another operator than these reads has one scale; biases have those of their weights."""
    for node in pairs(view):
        size = scale_size(view, node)
        if not is_dq(node) or size in {None, 1} or not view.is_constant(node.output):
            continue
        if code_type(view, node) == TensorProto.INT32:
            continue
        odd = [reader for reader in view.sinks(node.output, PASSES) if reader.op not in but]
        if odd:
            yield node, f"{size} scales on a constant of {odd[0].op} '{odd[0].name}'; give it one scale"


def channel_axes_are_right(
    view: GraphView, *, default: int | None = 1, of: Collection[str] = ("Conv", "ConvTranspose", "Gemm", "MatMul")
) -> Violations:
    """Scales of channels fit their axis, and it is the output channel of the operators `of`.

    `default` is the axis of a node that writes none; ``None`` where that is not to be relied on.
    """
    for node in pairs(view):
        scale_dims, dims = view.dims(node.input(1)), view.dims(node.input(0))
        if scale_dims is None or len(scale_dims) != 1 or (count := scale_dims[0]) in {None, 1}:
            continue
        axis = axis_of(node, default)
        if axis is None:
            yield node, f"{count} scales without an axis: ONNX reads 1, TensorRT 0; write the attribute"
            continue
        if dims is not None:
            if not -len(dims) <= axis < len(dims):
                yield node, f"axis {axis} does not exist in a tensor of rank {len(dims)}"
                continue
            if dims[axis] not in {None, count}:
                yield node, f"{count} scales for {dims[axis]} channels on axis {axis}"
        for use in weight_uses(view, node, default):
            expected = output_axis(view, use) if use.operator.op in of else None
            if None not in (use.axis, expected) and use.axis != expected:
                yield node, f"scales vary along axis {use.axis} of {use.operator.name}'s weight, output is {expected}"


def codes_have_types(
    view: GraphView, *, types: Collection[int], otherwise: str, constants: bool | None = None
) -> Violations:
    """Codes have one of the types; what else there is, `otherwise` happens to.

    `constants` restricts this to those of constants, or to those of activations.
    """
    for node in pairs(view):
        dtype = code_type(view, node)
        if constants is not None and view.is_constant(node.input(0)) != constants:
            continue
        if dtype is not None and dtype not in types and dtype != TensorProto.INT32:
            yield node, f"codes are {type_name(dtype)}: {otherwise}"


def opset_has_the_codes(view: GraphView) -> Violations:
    """ONNX's own Q and DQ have the codes in this opset; ONNX Runtime's have 16 and 4 bits in any."""
    opset = view.opset()
    for node in pairs(view):
        vector = scale_size(view, node) not in {None, 1}
        needed = max(FIRST_OPSET.get(code_type(view, node) or 0, 0), 13 if vector else 0)
        if "::" not in node.op and opset is not None and opset < needed:
            yield node, f"needs opset {needed}, the file has {opset}; take that, or com.microsoft.{node.op}"


def weights_are_symmetric(view: GraphView) -> Violations:
    """The zero points of weights are zero (128 where codes are unsigned)."""
    for node in pairs(view):
        if not is_dq(node) or next(weight_uses(view, node), None) is None:
            continue
        middle = 128 if code_type(view, node) == TensorProto.UINT8 else 0
        zero = zero_point_of(view, node)
        if zero is not None and (zero != middle).any():
            worst = zero[np.abs(zero - middle).argmax()]
            yield node, f"weight has zero point {worst}; quantize weights symmetrically"


def biases_lie_on_the_grid(view: GraphView) -> Violations:
    """A bias that is dequantized lies on the grid of the products, f32(scale_x * scale_w), with zero point 0."""
    for node in view.nodes:
        found = biased(view, node)
        bias = None if found is None else view.producer(found.bias)
        if found is None or not is_dq(bias):
            continue
        if found.operator is not node and code_type(view, bias) != TensorProto.INT32:
            continue  # an ordinary sum, whose constant has a grid of its own
        if (zero := zero_point_of(view, bias)) is not None and zero.any():
            yield node, f"zero point of '{bias.name}' is {zero[np.abs(zero).argmax()]}; biases are symmetric"
        off = _distance_to_products(view, found.operator, bias)
        # A product that was rounded once more on its way may end on the neighbouring float32.
        if off is not None and not off <= 2e-7:
            yield node, f"bias scale is {off:.2%} off scale_x * scale_w; quantize the bias on f32(scale_x * scale_w)"


def _distance_to_products(view: GraphView, operator: Node, bias: Node) -> float | None:
    """Return the largest relative distance of a bias's scales to those of its products, ``None`` if unknown."""
    both = operands(view, operator)
    if both is None:
        return None
    data, weight = dequantizer(view, both.data), dequantizer(view, both.weight)
    if data is None or weight is None:
        return None
    of_data, of_weight, of_bias = (scale_of(view, dq) for dq in (data, weight, bias))
    if of_data is None or of_weight is None or of_bias is None or of_data.size != 1:
        return None
    if of_weight.size != of_bias.size and 1 not in {of_weight.size, of_bias.size}:
        return None
    with np.errstate(all="ignore"):
        return float(np.abs(of_bias / (of_data * of_weight) - 1).max(initial=0))
