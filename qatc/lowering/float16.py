"""The float part of a file in float16, for runtimes that compute in the types of the file as it is written.

In a strongly typed TensorRT network a scale's type is that of what Q reads and of what DQ gives (NvInfer.h,
IQuantizeLayer and IDequantizeLayer). Where ONNX has float32 alone, a value stays so, between casts.

onnxruntime.transformers.float16 (1.31) is not used: it makes 65504 of constants beyond that, rounds weights apart from
their scales, and puts casts of inputs behind what reads them, which onnx's checker refuses.
"""

from collections.abc import Collection, Sequence

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx_ir import DataType, Graph, Node, Value

from qatc.errors import LoweringError

Array = NDArray[np.float32]

# The share of codes that may differ, per op, by a step: value, scale and quotient are each off by up to 2^-11, a
# sixteenth of a step at code 127. Measured on lenet, resnet18, mobilenet_v2 and a residual network, W8A8: 0.4 to 1.3 %.
DIFFERING = 0.02

_HALF = np.finfo(np.float16)
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_REMEDY = "lower with float_dtype fp32 (--float-dtype fp32)"
# Scales below the normal numbers have fewer digits; their error stays under a step of 8 bits.
_SCALE_ERROR = 2.0**-8


def to_float16(model: onnx_ir.Model, *, keep_ends: bool) -> None:
    """Rewrite the model in place; float32 inputs and outputs stay so where `keep_ends`, with a Cast behind them.

    Raises:
        LoweringError: a constant is beyond 65504, a scale too small, or there is control flow.

    """
    graph, opset = model.graph, model.opset_imports[""]
    nodes = list(graph)
    # Asked before any type changes; in order, so that a model gives one file.
    singles = dict.fromkeys((node, i) for node in nodes for i in _singles(node, node.inputs, _types(node, opset)[0]))
    for node in nodes:
        made = _singles(node, node.outputs, _types(node, opset)[1])
        for number, value in enumerate(node.outputs):
            if number in made:
                _cast_behind(graph, value, DataType.FLOAT16)
            elif _is_float(value):
                value.dtype = DataType.FLOAT16
        _set_attributes(node)
    for node, number in singles:
        _keep_single(graph, node, number, singles)
    _halve_constants(graph, singles)
    _set_ends(graph, keep_ends)


def _keep_single(graph: Graph, node: Node, number: int, singles: Collection[tuple[Node, int]]) -> None:
    """Let an operator read in float32 what is float16 elsewhere: a constant of its own, or behind a Cast."""
    value = node.inputs[number]
    assert value is not None
    name = f"{value.name}:{node.name}:{number}"
    if value.const_value is None:
        cast = _cast(value, DataType.FLOAT, name)
        graph.insert_before(node, cast)
        node.replace_input_with(number, cast.outputs[0])
    elif any((use.node, use.idx) not in singles for use in value.uses()):
        node.replace_input_with(number, _copied(graph, value, name))


def _is_float(value: Value | None) -> bool:
    return value is not None and value.dtype == DataType.FLOAT


def _singles(node: Node, values: Sequence[Value | None], has_half: list[bool]) -> set[int]:
    """Return which of a node's float values its operator has in float32 alone."""
    if any(isinstance(attribute.value, Graph) for attribute in node.attributes.values()):
        raise LoweringError("control flow is not written in float16", where=str(node.name), remedy=_REMEDY)
    return {i for i, value in enumerate(values) if _is_float(value) and not has_half[min(i, len(has_half) - 1)]}


def _types(node: Node, opset: int) -> tuple[list[bool], list[bool]]:
    """Return whether each input and output of an operator can be of float16; the last one repeats."""
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    named = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    takes, gives = (
        ["tensor(float16)" in named.get(formal.type_str, [formal.type_str]) for formal in formals]
        for formals in (schema.inputs, schema.outputs)
    )
    return takes, gives


def _cast(value: Value, dtype: DataType, name: str) -> Node:
    node = onnx_ir.node("Cast", [value], {"to": dtype}, name=f"{name}/Cast")
    (made,) = node.outputs
    made.name, made.dtype, made.shape = name, dtype, value.shape
    return node


def _cast_behind(graph: Graph, value: Value, dtype: DataType) -> None:
    """Let all that reads a value read it in another type."""
    producer = value.producer()
    cast = _cast(value, dtype, f"{value.name}:{dtype.name.lower()}")
    onnx_ir.convenience.replace_all_uses_with(value, cast.outputs[0])
    cast.replace_input_with(0, value)
    if producer is None:
        graph.insert_before(graph[0], cast)
    else:
        graph.insert_after(producer, cast)


def _copied(graph: Graph, value: Value, name: str) -> Value:
    copy = Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
    graph.register_initializer(copy)
    return copy


def _set_attributes(node: Node) -> None:
    """Let what names its result's type, or holds its values, follow."""
    if not node.outputs or node.outputs[0].dtype != DataType.FLOAT16:
        return
    for name in ("to", "dtype"):
        if name in node.attributes and node.attributes[name].value == DataType.FLOAT:
            node.attributes[name] = onnx_ir.AttrInt64(name, DataType.FLOAT16)
    if node.op_type in ("Constant", "ConstantOfShape"):
        given = node.attributes.get("value")
        values = np.zeros(1, np.float32) if given is None else given.value.numpy()
        node.attributes["value"] = onnx_ir.AttrTensor("value", onnx_ir.tensor(_half(str(node.name), values)))


def _halve_constants(graph: Graph, singles: Collection[tuple[Node, int]]) -> None:
    """Halve the constants that are read as float16, scales first: weights that Q reads are multiples of theirs."""
    constants = [
        value for value in graph.initializers.values()
        if _is_float(value) and any((use.node, use.idx) not in singles for use in value.uses())
    ]  # fmt: skip
    values = {value: _array(value) for value in constants}
    halves: dict[Value, NDArray[np.float16]] = {}
    for value in constants:
        readers = [use.node for use in value.uses() if (use.idx == 1 and use.node.op_type.endswith("quantizeLinear"))
                   or (use.idx == 1 and use.node.op_type == "QuantizeLinear")]  # fmt: skip
        if readers:
            halves[value] = _scale(readers[0], value, values[value])
    for value in constants:
        if value not in halves:
            halves[value] = _half(str(value.name), values[value])
    for value in constants:
        for use in value.uses():
            scale = use.node.inputs[1] if use.idx == 0 and use.node.op_type == "QuantizeLinear" else None
            if scale in halves:
                axis = use.node.attributes.get_int("axis", 1)
                codes = np.rint(values[value] / _along(values[scale], axis, values[value].ndim))
                on_grid = codes * _along(halves[scale].astype(np.float32), axis, codes.ndim)
                halves[value] = _half(str(value.name), on_grid.astype(np.float32))
    for value, half in halves.items():
        value.const_value = onnx_ir.tensor(half, name=value.name)
        value.dtype = DataType.FLOAT16


def _array(value: Value) -> Array:
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float32)


def _along(scale: Array, axis: int, rank: int) -> Array:
    return scale.reshape([-1 if d == axis else 1 for d in range(rank)]) if scale.ndim else scale


def _half(name: str, values: Array) -> NDArray[np.float16]:
    finite = np.abs(values[np.isfinite(values)])
    if finite.size and finite.max() > _HALF.max:
        raise LoweringError(
            f"a constant of {finite.max():g} is more than float16 holds ({_HALF.max:g})", where=name, remedy=_REMEDY
        )
    return values.astype(np.float16)


def _scale(reader: Node, value: Value, scale: Array) -> NDArray[np.float16]:
    """Return a scale; where all values on it are zeros, any will do."""
    half = _half(str(value.name), scale)
    lost = np.abs(half.astype(np.float32) - scale) > _SCALE_ERROR * scale
    if not lost.any():
        return half
    codes = None if reader.inputs[0] is None or reader.inputs[0].const_value is None else _array(reader.inputs[0])
    if codes is not None and scale.ndim:
        codes = np.moveaxis(codes, reader.attributes.get_int("axis", 1), 0).reshape(len(scale), -1)
    used = np.ones_like(lost) if codes is None else codes.any(axis=-1) if scale.ndim else codes.any()
    if (lost & used).any():
        least = float(scale[lost & used].min())
        raise LoweringError(f"a scale of {least:g} is less than float16 holds", where=str(value.name), remedy=_REMEDY)
    return np.where(lost, np.float16(_HALF.tiny), half)


def _set_ends(graph: Graph, keep: bool) -> None:
    for value in graph.inputs:
        if _is_float(value) and keep:
            _cast_behind(graph, value, DataType.FLOAT16)
        elif _is_float(value):
            value.dtype = DataType.FLOAT16
    for number, value in enumerate(list(graph.outputs)):
        if keep and value.dtype == DataType.FLOAT16:
            name = str(value.name)
            value.name = f"{name}:float16"
            cast = _cast(value, DataType.FLOAT, name)
            graph.append(cast)
            graph.outputs[number] = cast.outputs[0]
