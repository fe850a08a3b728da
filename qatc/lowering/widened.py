"""Codes of 4 and 2 bits made visible: numpy has no such types, so no runtime gives or takes them."""

from collections.abc import Collection

import onnx
from onnx import TensorProto

_WIDE = {
    TensorProto.INT4: TensorProto.INT8, TensorProto.INT2: TensorProto.INT8,
    TensorProto.UINT4: TensorProto.UINT8, TensorProto.UINT2: TensorProto.UINT8,
}  # fmt: skip


def widened(proto: onnx.ModelProto, codes: Collection[str]) -> onnx.ModelProto:
    """Return the model with those of its tensors of codes that are narrower in 8 bits, between two casts."""
    types = {v.name: v for v in proto.graph.value_info if v.name in codes and v.type.tensor_type.elem_type in _WIDE}
    if not types:
        return proto
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    nodes = list(copy.graph.node)
    del copy.graph.node[:]
    for node in nodes:
        made = [name for name in node.output if name in types]
        for given, suffix in ((node.input, ":read"), (node.output, ":made")):
            given[:] = [f"{name}{suffix}" if name in types else name for name in given]
        copy.graph.node.append(node)
        for name in made:
            narrow = types[name].type.tensor_type.elem_type
            copy.graph.node.extend([
                onnx.helper.make_node("Cast", [f"{name}:made"], [name], to=_WIDE[narrow]),
                onnx.helper.make_node("Cast", [name], [f"{name}:read"], to=narrow),
            ])  # fmt: skip
    for value in copy.graph.value_info:
        if value.name in types:
            value.type.tensor_type.elem_type = _WIDE[value.type.tensor_type.elem_type]
    return copy
