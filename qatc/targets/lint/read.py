"""Reading an ONNX file to lint it: whole, or an error that says what is wrong with it; weights beside it stay there."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from qatc.errors import LintError

# What a protobuf message can hold; larger networks keep their weights in external data.
_LARGEST = 2**31 - 1


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model of a file; its external data are checked to be there and left where they are.

    Raises:
        LintError: there is no such file, it is not an ONNX model, it is cut short, or external data are missing.

    """
    where = str(path)
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= _LARGEST else b""
    except OSError as error:
        raise LintError(f"the file cannot be read: {error.strerror}", where=where, remedy="check the path") from error
    if size > _LARGEST:
        raise LintError(
            f"the file has {size / 2**30:.1f} GiB; one protobuf message has 2 at most",
            where=where,
            remedy="save the model with its weights as external data (onnx.save, save_as_external_data=True)",
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise LintError(
            "this is not an ONNX model, or it is cut short", where=where, remedy="export or copy it again"
        ) from error
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise LintError("this is not an ONNX model: it has no graph", where=where, remedy="check which file it is")
    for tensor in _external(model.graph):
        _check_external(tensor, path.parent, where)
    return model


def _external(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Tensors of the graph and of the bodies in it whose numbers lie in another file."""
    waiting = [graph]
    while waiting:
        found = waiting.pop()
        tensors = list(found.initializer)
        for node in found.node:
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                waiting += [attribute.g, *attribute.graphs]
        yield from (tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL)


def _check_external(tensor: onnx.TensorProto, folder: Path, where: str) -> None:
    given = {entry.key: entry.value for entry in tensor.external_data}
    remedy = "put the file that the model was saved with beside it"
    location = given.get("location", "")
    place = (folder / location).resolve()
    if not location or not place.is_relative_to(folder.resolve()):
        raise LintError(f"external data of '{tensor.name}' lie outside the model's folder", where=where, remedy=remedy)
    if not place.is_file():
        raise LintError(f"external data of '{tensor.name}' are missing: {location}", where=where, remedy=remedy)
    try:
        end = int(given.get("offset", "0")) + int(given.get("length", "0"))
    except ValueError:
        end = -1
    if not 0 <= end <= place.stat().st_size:
        raise LintError(f"external data of '{tensor.name}' are cut short: {location}", where=where, remedy=remedy)
