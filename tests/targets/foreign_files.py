"""Files that other tools quantized, as tools/lint_files.py describes them: with one number for each longer constant."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

_FOLDER = Path(__file__).parent / "files"


@cache
def foreign(name: str) -> onnx.ModelProto:
    """Return the file `files/<name>.json` as a model; callers do not change it."""
    given = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    model = onnx.parser.parse_model("\n".join(given["text"]))
    for constant, (kind, dims, numbers) in given["constants"].items():
        dtype = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(kind))
        values = np.resize(np.array(numbers, dtype), dims)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, constant))
    return model
