"""The inputs that a model was last seen with, as plain data, and back."""

from collections.abc import Sequence
from typing import Any

from qatc.checkpoint.plain import DTYPES
from qatc.errors import CheckpointError
from qatc.nested import Part
from qatc.prepared import InputType, InputTypes


def inputs_data(inputs: InputTypes | None) -> Any:
    """Return the inputs as plain data: path, dtype and shape of each tensor."""
    return None if inputs is None else [[_path_data(i.path), i.dtype, list(i.shape)] for i in inputs]


def _path_data(path: Sequence[Part]) -> Any:
    # A key of another type (an enum's member) is found again by its name alone.
    return [[p.name, p.key if type(p.key) in (str, int, bool) else p.name, p.attribute] for p in path]


def inputs_from(data: Any, version: int, names: Sequence[str]) -> InputTypes | None:
    """Return what `inputs_data` was given; `names` are the model's arguments, which format 1 did not write."""
    if data is None:
        return None
    if version == 1:
        data = [[[[n, n, False]], dtype, [None, *shape[1:]]] for n, (dtype, shape) in zip(names, data, strict=False)]
    return tuple(_input(path, dtype, shape) for path, dtype, shape in data)


def _input(path: Any, dtype: Any, shape: Any) -> InputType:
    parts = tuple(Part(*part) for part in path)
    texts = all(type(p.name) is str and type(p.key) in (str, int, bool) and type(p.attribute) is bool for p in parts)
    if not (parts and texts and dtype in DTYPES and all(type(size) in (int, type(None)) for size in shape)):
        raise CheckpointError(f"the file is damaged: {str(path)[:60]!r} is no input")
    return InputType(parts, dtype, tuple(shape))
