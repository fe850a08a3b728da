"""The bytes of a .pt2 file: the graph's JSON text and the tensors.

`torch.export.load` unpickles objects (`weights_only=False`), evaluates expressions of sizes as Python and loads
compiled libraries (torch/export/pt2_archive/_package.py, torch/_export/serde/serialize.py, torch 2.13), whatever the
file says; so nothing of it is called. The layout is that of torch/csrc/export/pt2_archive_constants.h.
"""

import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qatc.checkpoint.archive import checked_entries
from qatc.errors import CheckpointError
from qatc.exported.codes import DTYPES

# The major version of torch/_export/serde/schema.py that this reads.
SCHEMA = 8
EXPORT_AGAIN = "export it again: torch.export.save(torch.export.export(model.eval(), inputs), 'model.pt2')"
_KIND = "a program of torch.export"
_PLAIN_NAME = re.compile(r"\w[\w.\-]*")


@dataclass(frozen=True)
class Archive:
    """What a file holds: the graph as `torch.export` serializes it, and every tensor by its name in the model."""

    program: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def is_exported(path: Path) -> bool:
    """Say whether the file is one of torch.export's, of any version, by what it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, NotImplementedError, EOFError):
        return False
    return any(re.search(r"(^|/)(archive_format|serialized_exported_program\.json)$", name) for name in names)


def read_archive(path: Path) -> Archive:
    """Return what the file holds; a `CheckpointError` where that is damaged, or more than tensors and a graph."""
    names = checked_entries(path, _KIND, EXPORT_AGAIN)
    root = next((n.removesuffix("archive_format") for n in names if n.endswith("/archive_format")), None)
    if root is None:
        raise CheckpointError("this is the format of torch 2.7 and before", remedy=EXPORT_AGAIN)
    with zipfile.ZipFile(path) as archive:
        models = [n for n in names if n.startswith(f"{root}models/") and n.endswith(".json")]
        if len(models) != 1:
            raise CheckpointError(f"the file holds {len(models)} programs, one is needed", remedy=EXPORT_AGAIN)
        name = models[0].removeprefix(f"{root}models/").removesuffix(".json")
        program = _json(archive.read(models[0]))
        if program["schema_version"]["major"] != SCHEMA:
            raise CheckpointError(
                f"the file has schema {program['schema_version']['major']} of torch.export, {SCHEMA} is known",
                remedy=EXPORT_AGAIN,
            )
        tensors = _tensors(archive, f"{root}data/weights/", f"{name}_weights_config.json")
        tensors |= _tensors(archive, f"{root}data/constants/", f"{name}_constants_config.json")
    return Archive(program, tensors)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("the file is damaged: its graph is no JSON text", remedy=EXPORT_AGAIN) from error


def _tensors(archive: zipfile.ZipFile, folder: str, config: str) -> dict[str, Tensor]:
    if folder + config not in archive.namelist():
        raise CheckpointError(f"the file lacks {config}", remedy=EXPORT_AGAIN)
    stored: dict[str, bytearray] = {}
    made: dict[str, Tensor] = {}  # one tensor of several names is one object
    found: dict[str, Tensor] = {}
    for name, entry in _json(archive.read(folder + config))["config"].items():
        file = entry["path_name"]
        if type(file) is not str or not _PLAIN_NAME.fullmatch(file):
            raise CheckpointError(f"the file is damaged: {name!r} is said to be in {str(file)[:60]!r}")
        if not file.startswith(("weight", "tensor")):
            raise CheckpointError(
                f"the file holds {name!r}, an object of some class: reading it would run its code",
                remedy="export a model whose attributes are tensors and numbers",
            )
        if file not in stored:
            stored[file] = bytearray(archive.read(folder + file))
        key = json.dumps(entry)
        if key not in made:
            content = stored[file]
            value = _pickled(name, content) if entry["use_pickle"] else _raw(name, content, entry["tensor_meta"])
            trains = value.is_floating_point()
            made[key] = nn.Parameter(value, requires_grad=trains) if entry["is_param"] else value
        found[name] = made[key]
    return found


def _pickled(name: str, content: bytearray) -> Tensor:
    """Return the tensor in a pickle of tensors alone."""
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{name!r} is pickled, and no plain tensor: reading it would run its code", remedy=EXPORT_AGAIN
        ) from error
    if type(found) not in (Tensor, nn.Parameter) or found.layout != torch.strided or found.device.type != "cpu":
        raise CheckpointError(f"{name!r} is a {type(found).__name__}, no plain tensor", remedy=EXPORT_AGAIN)
    plain: Tensor = found.detach()
    return plain


def _raw(name: str, content: bytearray, meta: Mapping[str, Any]) -> Tensor:
    """Return the tensor over these bytes; one that would reach beyond them is refused."""
    dtype = DTYPES[meta["dtype"]]
    shape, strides = ([_number(size) for size in meta[key]] for key in ("sizes", "strides"))
    offset = _number(meta["storage_offset"])
    last = -1 if 0 in shape else offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if max(last + 1, math.prod(shape)) * dtype.itemsize > len(content):
        raise CheckpointError(
            f"the file is damaged: {name!r} is declared as {str(dtype).removeprefix('torch.')}{shape}, "
            f"in {len(content)} bytes",
            remedy="export a model whose tensors hold every element (`contiguous()` of an expanded one)",
        )
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    whole = torch.frombuffer(content, dtype=dtype, count=len(content) // dtype.itemsize)
    return whole.as_strided(shape, strides, offset).contiguous()


def _number(size: Mapping[str, Any]) -> int:
    number = size.get("as_int")
    if type(number) is not int or number < 0:
        raise CheckpointError(f"the file is damaged: {str(size)[:60]!r} is no size")
    return number
