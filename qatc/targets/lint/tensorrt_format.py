"""TensorRT rules on single Q/DQ nodes and their constants: what the importer accepts and how it reads it."""

from collections.abc import Iterator, Mapping

import numpy as np
from onnx import TensorProto

from qatc.targets.lint.graph import Array, Dims, GraphView, Node
from qatc.targets.lint.qdq import (
    WeightUse,
    code_type,
    dequantizer,
    is_dq,
    is_four_bit,
    is_q,
    operands,
    pairs,
    scale_size,
    unquantized,
    weight_uses,
)

_CODE_TYPES = frozenset({TensorProto.INT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.FLOAT4E2M1})
_FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_BLOCK_ACTIVATION_TYPES = frozenset({TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1})
_FIRST_OPSET: Mapping[int, int] = {
    TensorProto.FLOAT8E4M3FN: 19,
    TensorProto.INT4: 21,
    TensorProto.UINT4: 21,
    TensorProto.FLOAT4E2M1: 23,
}
_INTEGER_OPS = frozenset({"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})

Violations = Iterator[tuple[Node, str]]


def zero_points_are_zero(view: GraphView) -> Violations:
    """TRT01: every Q/DQ zero point is a constant of zeros.

    TensorRT quantizes symmetrically only; its parser asserts it (QuantDequantLinearHelper).
    """
    for node in pairs(view):
        zero_point = node.input(2)
        if not zero_point:
            continue
        if not view.is_constant(zero_point):
            yield node, f"zero point '{zero_point}' is computed at run time; TensorRT needs a constant of zeros"
        elif (value := view.value(zero_point)) is not None and (shift := value.astype(np.float32)).any():
            worst = shift.flat[np.abs(shift).argmax()]
            yield node, f"zero point is {worst:g}; quantize this tensor symmetrically (int8, zero point 0)"


def codes_have_a_tensorrt_type(view: GraphView) -> Violations:
    """TRT02: codes are int8, fp8e4m3, int4 or fp4, and a Q says which.

    A uint8 DQ is rejected; a Q without zero point is uint8 in ONNX and int8 in TensorRT (QuantDequantLinearHelper).
    """
    for node in pairs(view):
        dtype = code_type(view, node)
        if dtype in _CODE_TYPES:
            continue
        if dtype is not None:
            name = TensorProto.DataType.Name(dtype) if dtype in TensorProto.DataType.values() else str(dtype)
            yield node, f"codes are {name}; TensorRT takes INT8, FLOAT8E4M3FN, INT4 or FLOAT4E2M1"
        elif is_q(node) and not node.input(2):
            yield node, "no zero point, so the codes are uint8 in ONNX but int8 in TensorRT; give an int8 zero point"


def biases_are_float(view: GraphView) -> Violations:
    """TRT03: a bias is a float initializer without a DQ.

    int32 is not an input type of TensorRT's DQ (onnx-tensorrt issue 850, onnxruntime issue 14229).
    """
    for node in view.nodes:
        bias = _bias(view, node)
        if not bias:
            continue
        if dq := dequantizer(view, bias):
            yield node, f"bias comes from '{dq.name}'; store it as a float initializer, rounded to the same grid"
        elif node.op in {"Conv", "ConvTranspose"} and not view.is_constant(bias):
            if dequantizer(view, node.input(0)):
                yield node, f"bias '{bias}' is computed at run time; make it a float initializer"
        elif (dtype := view.dtype(bias)) is not None and dtype not in _FLOAT_TYPES:
            yield node, f"bias '{bias}' is not float; store it as a float initializer"


def _bias(view: GraphView, node: Node) -> str:
    """Return the bias operand of a weighted op, or of an Add that biases one."""
    if operands(view, node):
        return node.input(2)
    if node.op == "Add" and len(node.inputs) == 2:
        for bias, product in (node.inputs, node.inputs[::-1]):
            dims = view.dims(bias)
            is_vector = dims is not None and sum(dim != 1 for dim in dims) <= 1
            if is_vector and view.is_constant(bias) and operands(view, view.producer(unquantized(view, product))):
                return bias
    return ""


def scales_are_positive_constants(view: GraphView) -> Violations:
    """TRT04: a scale is a constant, finite, positive float, with as many zero points as scales.

    The parser asserts all of it; NvInfer.h wants the scale at build time.
    """
    for node in pairs(view):
        scale = node.input(1)
        if scale and not view.is_constant(scale) and not is_dq(view.producer(scale)):
            # NVFP4 is the exception: its activations' block scales are themselves dequantized at run time.
            yield node, f"scale '{scale}' is computed at run time; store a calibrated scale as an initializer"
        if (dtype := view.dtype(scale)) is not None and dtype not in _FLOAT_TYPES:
            yield node, f"scale '{scale}' is not float32, float16 or bfloat16; store it as float32"
        elif (value := view.value(scale)) is not None and not _all_positive(value):
            yield node, f"scale '{scale}' has entries that are not finite and positive; recalibrate this tensor"
        sizes = scale_size(view, node), _size(view, node.input(2))
        if None not in sizes and sizes[0] != sizes[1]:
            yield node, f"{sizes[0]} scale(s) but {sizes[1]} zero point(s); give one zero point a scale"


def _all_positive(value: Array) -> bool:
    numbers = value.astype(np.float64)
    return numbers.size > 0 and bool((np.isfinite(numbers) & (numbers > 0)).all())


def _size(view: GraphView, tensor: str) -> int | None:
    dims = view.dims(tensor)
    return None if dims is None or None in dims else int(np.prod([dim for dim in dims if dim is not None]))


def activations_are_per_tensor(view: GraphView) -> Violations:
    """TRT05: a vector of scales stands only on a constant.

    IQuantizeLayer has no per-channel activations (NvInfer.h); fp8 and fp4 may have block scales on them.
    """
    for node in pairs(view):
        size, dims = scale_size(view, node), view.dims(node.input(1))
        if size is None or dims is None or size == 1 or view.is_constant(node.input(0)):
            continue
        if len(dims) == 1 or code_type(view, node) not in _BLOCK_ACTIVATION_TYPES | {None}:
            yield node, f"{size} scales on an activation; TensorRT wants one scale a tensor here"


def channel_axes_are_right(view: GraphView) -> Violations:
    """TRT06: per-channel scales name their axis, fit it, and it is the op's output channel.

    Without ``axis`` ONNX reads 1 and the parser 0; a wrong axis means wrong results (QuantDequantLinearHelper,
    ModelOpt's QDQOpTypePerChannelSupportToAxis).
    """
    for node in pairs(view):
        scale_dims, dims = view.dims(node.input(1)), view.dims(node.input(0))
        if scale_dims is None or len(scale_dims) != 1 or (count := scale_dims[0]) in {None, 1}:
            continue
        axis = node.integer("axis")
        if axis is None:
            yield node, f"{count} scales without an axis: ONNX reads 1, TensorRT 0; write the attribute"
            continue
        if dims is not None:
            if not -len(dims) <= axis < len(dims):
                yield node, f"axis {axis} does not exist in a tensor of rank {len(dims)}"
                continue
            if dims[axis] not in {None, count}:
                yield node, f"{count} scales for {dims[axis]} channels on axis {axis}"
        for use in weight_uses(view, node):
            expected = _output_axis(view, use)
            if None not in (use.axis, expected) and use.axis != expected:
                yield node, f"scales vary along axis {use.axis} of {use.operator.name}'s weight, output is {expected}"


def _output_axis(view: GraphView, use: WeightUse) -> int | None:
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


def opset_fits_the_codes(view: GraphView) -> Violations:
    """TRT07: the opset has the form used, a 4-bit tensor has an even size, blocks lie in one dimension.

    Two 4-bit codes share a byte; the parser infers one blocked dimension from the scale's shape.
    """
    opset = view.opset()
    for node in pairs(view):
        dtype = code_type(view, node)
        dims, scale_dims = view.dims(node.input(0)), view.dims(node.input(1))
        vector = scale_size(view, node) not in {None, 1} and scale_dims is not None
        block = bool(node.integer("block_size")) or (vector and scale_dims is not None and len(scale_dims) > 1)
        needed = max(_FIRST_OPSET.get(dtype or 0, 0), 21 if block else 13 if vector else 0)
        if "::" not in node.op and opset is not None and opset < needed:
            yield node, f"needs opset {needed}, the file has {opset}; export with a newer opset"
        if is_four_bit(dtype) and (size := _size(view, node.input(0))) is not None and size % 2:
            yield node, f"{size} codes of 4 bits do not fill whole bytes; pad the tensor to an even size"
        if block and (problem := _block_problem(dims, scale_dims)):
            yield node, problem


def _block_problem(dims: Dims | None, scale_dims: Dims | None) -> str | None:
    if dims is None or scale_dims is None:
        return None
    if len(dims) != len(scale_dims):
        return f"scale has rank {len(scale_dims)}, data {len(dims)}; block scales have the rank of the data"
    known = [(dim, scales) for dim, scales in zip(dims, scale_dims, strict=True) if dim is not None and scales]
    if len(known) < len(dims):
        return None
    if any(dim % scales for dim, scales in known):
        return f"scale shape {scale_dims} does not divide the data shape {dims}"
    blocked = sum(dim != scales for dim, scales in known)
    return None if blocked == 1 else f"blocks in {blocked} dimensions; TensorRT takes exactly one"


def data_has_a_rank(view: GraphView) -> Violations:
    """TRT08: what is quantized is not a scalar.

    IQuantizeLayer does not support rank 0 (NvInfer.h); the parser has to insert a reshape.
    """
    for node in pairs(view):
        if node.input(0) and view.dims(node.input(0)) == ():
            yield node, "quantizes a scalar; leave it float or give it one dimension"


def weight_codes_are_narrow(view: GraphView) -> Violations:
    """TRT22: int8 weight codes stay in [-127, 127].

    TensorFlow's toolkit and ModelOpt use that range; -128 has no positive counterpart on a symmetric grid.
    """
    for node in pairs(view):
        if code_type(view, node) != TensorProto.INT8 or next(weight_uses(view, node), None) is None:
            continue
        codes = _rounded(view, node) if is_q(node) else view.value(node.input(0))
        if codes is not None and codes.size and codes.min() < -127:
            yield node, "weight codes reach -128; clip them at -127 (narrow range)"


def _rounded(view: GraphView, node: Node) -> Array | None:
    data, scale = view.value(node.input(0)), view.value(node.input(1))
    if data is None or scale is None:
        return None
    if scale.size != 1:
        axis = node.integer("axis")
        if axis is None or scale.ndim != 1 or not -data.ndim <= axis < data.ndim or data.shape[axis] != scale.size:
            return None
        shape = [-1 if dim == axis % data.ndim else 1 for dim in range(data.ndim)]
    else:
        shape = [1] * data.ndim
    with np.errstate(all="ignore"):
        codes: Array = np.rint(data.astype(np.float32) / scale.astype(np.float32).reshape(shape))
    return codes


def only_importable_ops(view: GraphView) -> Violations:
    """TRT24: no integer ONNX operators and none of ONNX Runtime's own.

    onnx-tensorrt has no importer for QLinear*, ConvInteger and the like; Q/DQ around float ops says the same.
    """
    for node in view.nodes:
        if node.op.startswith(("com.microsoft", "QLinear")) or node.op in _INTEGER_OPS:
            yield node, f"TensorRT imports no {node.op}; write the float operator between DQ and Q of the ONNX domain"
