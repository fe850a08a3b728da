"""From the model as it was written to the content of a checked file of some opset."""

import onnx
import onnx_ir

from qatc.errors import LoweringError, first_line


def finished(model: onnx_ir.Model, opset: int, metadata: dict[str, str]) -> onnx.ModelProto:
    """Return the checked file content of that opset, with shapes inferred."""
    model.producer_name = "qatc"
    proto: onnx.ModelProto = onnx_ir.to_proto(model)
    if opset < LEAST_WRITTEN:
        proto = downgraded(proto, opset)
    onnx.helper.set_model_props(proto, metadata)
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
    try:
        onnx.checker.check_model(proto, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    except Exception as error:
        raise LoweringError(f"the lowered graph is not valid ONNX: {first_line(error)}") from error
    return inferred


def downgraded(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model in an older opset than it was written in; a `LoweringError` where an op has no older form."""
    try:
        older = onnx.version_converter.convert_version(proto, max(opset, _LEAST_CONVERTED))
        if opset < _LEAST_CONVERTED:
            # Of what 14 changed in the ops that it shares with 13, only types and defaults are more: the check that
            # follows finds any op that 13 does not have.
            older.opset_import[0].version = opset
            for node in older.graph.node:
                for attribute in [a for a in node.attribute if a.name == "allowzero" and a.i == 0]:
                    node.attribute.remove(attribute)
        onnx.checker.check_model(older, full_check=True)
    except Exception as error:
        raise LoweringError(
            f"the model cannot be written in opset {opset}: {first_line(error)}", remedy="choose a higher --opset"
        ) from error
    return older


# The oldest opset that is written as such, and the oldest that onnx's converter has all its adapters for.
LEAST_WRITTEN = 18
_LEAST_CONVERTED = 14
