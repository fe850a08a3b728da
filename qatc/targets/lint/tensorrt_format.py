"""TensorRT rules on single Q/DQ nodes and their constants: what the importer accepts and how it reads it."""

import numpy as np
from onnx import TensorProto

from qatc.targets.lint.graph import Array, Dims, GraphView, Node
from qatc.targets.lint.grids import FIRST_OPSET, FLOAT_TYPES, type_name
from qatc.targets.lint.qdq import (
    biased,
    code_type,
    dequantizer,
    is_four_bit,
    is_q,
    pairs,
    scale_size,
    size_of,
    weight_uses,
)
from qatc.targets.lint.rule import Violations

_CODE_TYPES = frozenset({TensorProto.INT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.FLOAT4E2M1})
BLOCK_ACTIVATION_TYPES = frozenset({TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1})
_INTEGER_OPS = frozenset({"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})


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
            yield node, f"codes are {type_name(dtype)}; TensorRT takes INT8, FLOAT8E4M3FN, INT4 or FLOAT4E2M1"
        elif is_q(node) and not node.input(2):
            yield node, "no zero point, so the codes are uint8 in ONNX but int8 in TensorRT; give an int8 zero point"


def biases_are_float(view: GraphView) -> Violations:
    """TRT03: a bias is a float initializer without a DQ.

    int32 is not an input type of TensorRT's DQ (onnx-tensorrt issue 850, onnxruntime issue 14229).
    """
    for node in view.nodes:
        found = biased(view, node)
        if found is None:
            continue
        bias = found.bias
        if dq := dequantizer(view, bias):
            yield node, f"bias comes from '{dq.name}'; store it as a float initializer, rounded to the same grid"
        elif node.op in {"Conv", "ConvTranspose"} and not view.is_constant(bias):
            if dequantizer(view, node.input(0)):
                yield node, f"bias '{bias}' is computed at run time; make it a float initializer"
        elif (dtype := view.dtype(bias)) is not None and dtype not in FLOAT_TYPES:
            yield node, f"bias '{bias}' is not float; store it as a float initializer"


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
        needed = max(FIRST_OPSET.get(dtype or 0, 0), 21 if block else 13 if vector else 0)
        if "::" not in node.op and opset is not None and opset < needed:
            yield node, f"needs opset {needed}, the file has {opset}; export with a newer opset"
        if is_four_bit(dtype) and (size := size_of(view, node.input(0))) is not None and size % 2:
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
