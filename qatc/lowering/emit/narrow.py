"""Codes in ONNX's types of 4 and 2 bits, which torch has not: they are written in 8 bits, and narrowed at the end."""

import ml_dtypes
import onnx_ir
from onnx_ir import DataType

from qatc.lowering.emit.builder import Value

_BITS = "qatc_bits"
# onnx, docs/Changelog.md: QuantizeLinear has 4 bits since opset 21, 2 since 25.
_TWO_BITS = 25
_TYPES = {
    (4, DataType.INT8): (DataType.INT4, ml_dtypes.int4), (4, DataType.UINT8): (DataType.UINT4, ml_dtypes.uint4),
    (2, DataType.INT8): (DataType.INT2, ml_dtypes.int2), (2, DataType.UINT8): (DataType.UINT2, ml_dtypes.uint2),
}  # fmt: skip


def set_narrow(bits: int, *values: Value | None) -> None:
    """Note that codes, and their zero point, have so few bits."""
    for value in values:
        if value is not None:
            value.meta[_BITS] = bits


def narrow(graph: onnx_ir.Graph, opset: int) -> None:
    """Give what `set_narrow` noted the narrowest type that the opset has."""
    made = (value for node in graph for value in node.outputs)
    for value in (*graph.initializers.values(), *made):
        if _BITS not in value.meta or value.dtype is None:
            continue
        dtype, kind = _TYPES[2 if value.meta[_BITS] <= 2 and opset >= _TWO_BITS else 4, value.dtype]
        if value.const_value is not None:
            codes = value.const_value.numpy().astype(kind)
            value.const_value = onnx_ir.Tensor(codes, dtype=dtype, name=value.name)
        value.dtype = dtype
