"""The codes of an ONNX file against the simulation's, tensor by tensor, the file run as it is written."""

from collections.abc import Mapping
from pathlib import Path

import onnx

from qatc import ir
from qatc.debugging.figures import FileCodes
from qatc.errors import VerificationError
from qatc.lowering.flatten_inputs import input_types
from qatc.lowering.lowered import Lowered
from qatc.lowering.options import LoweringOptions
from qatc.lowering.verify import code_tensors, flat, verify
from qatc.lowering.verify_data import Array
from qatc.prepared import PreparedModel
from qatc.quantizers import Quantizer
from qatc.runtimes.onnxruntime import ONNXRUNTIME_UNOPTIMIZED
from qatc.targets.lint.read import read_model

_REMEDY = "give the file that this checkpoint was lowered to"


def file_codes(model: PreparedModel, path: Path, data: Mapping[str, Array]) -> dict[str, FileCodes]:
    """Return how the codes of each quantized tensor differ, by the path of its quantizer's call.

    ONNX Runtime runs the file without graph optimization. Of a file whose batch is fixed, what is left of the data
    beyond whole batches is not run.

    Raises:
        LintError: the file cannot be read.
        VerificationError: it is not of this model, or the data does not fit it.

    """
    proto = read_model(path)
    onnx.load_external_data_for_model(proto, str(path.parent))
    types = input_types(flat(model))
    known = {ir.source_of(node).path for node, m in ir.module_calls(model) if isinstance(m, Quantizer)}
    given = {i.name: i for i in proto.graph.input}
    strangers = [*(set(given) - set(types)), *(set(code_tensors(proto).values()) - known)]
    if strangers or not code_tensors(proto):
        what = f"this model has no {sorted(strangers)[0]!r}" if strangers else "it has no quantized tensor"
        raise VerificationError(f"the file is not of this model: {what}", where=str(path), remedy=_REMEDY)
    assert model.prepared_for is not None
    batch = next(
        (_fixed(given[name]) for name, kind in types.items() if name in given and kind.shape[:1] == (None,)), None
    )
    if batch is not None:
        data = {
            name: array[: len(array) // batch * batch] if name in types and types[name].shape[:1] == (None,) else array
            for name, array in data.items()
        }
    lowered = Lowered(proto, model.prepared_for.target, (), {}, LoweringOptions(batch=batch))
    check = verify(model, lowered, data, runtime=ONNXRUNTIME_UNOPTIMIZED)
    return {
        t.name: FileCodes(t.codes, t.differing, t.step, t.differing_end_to_end, t.step_end_to_end)
        for t in check.tensors
    }


def _fixed(given: onnx.ValueInfoProto) -> int | None:
    """Return the size of dimension 0 if it is a number."""
    return given.type.tensor_type.shape.dim[0].dim_value or None
