"""The file: written whole or not at all, read without running anything that it holds."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.serialization import config as serialization

import qatc
from qatc import ir
from qatc.checkpoint.archive import checked_entries
from qatc.checkpoint.graph_data import build_graph, graph_data
from qatc.checkpoint.inputs_data import inputs_data, inputs_from
from qatc.checkpoint.module_data import build_tree, tree_data
from qatc.checkpoint.names import Allowed, identifier
from qatc.checkpoint.pickling import GRAPH_STATE, assembled
from qatc.checkpoint.settings import config_data, config_from, target_data, target_from
from qatc.errors import CheckpointError
from qatc.float_state import FloatNames
from qatc.prepared import PreparedFor, PreparedModel, remember
from qatc.whole_file import replacing

FORMAT, VERSION = "qatc checkpoint", 2
_KEYS = ("name", "graph", "modules", "tensors", "target", "config", "inputs")
_HIDDEN = GRAPH_STATE | {"meta"}
_SAVE_AGAIN = "save it again, or take another copy"
_NAME_ANOTHER = "name a file that qatc.save wrote"


def save(model: PreparedModel, path: str | os.PathLike[str]) -> None:
    """Write the model to a file that `qatc.load` reads: tensors and plain data, no code.

    The file is replaced only once the new one is complete. Optimizers and hooks are not part of it.

    Raises:
        CheckpointError: the path cannot be written, or the model holds something that is no plain data.

    """
    if not isinstance(model, PreparedModel):
        inner = next((name for name in ("module", "_orig_mod") if hasattr(model, name)), None)
        remedy = f"save model.{inner}" if inner else "save the model that qatc.prepare returned"
        raise CheckpointError(f"a {type(model).__name__} is not a prepared model", remedy=remedy)
    if any(hasattr(parameter, "full_tensor") for parameter in model.parameters()):
        raise CheckpointError(
            "the model's parameters are sharded over ranks",
            remedy="load torch.distributed.checkpoint.state_dict.get_model_state_dict(model, options=StateDictOptions("
            "full_state_dict=True)) into a prepared model that is not, and save that",
        )
    _write(_content(model), Path(os.path.realpath(path)))


def load(path: str | os.PathLike[str], *, allow: Iterable[str] = (), trust_pickle: bool = False) -> PreparedModel:
    """Return the model that `qatc.save` wrote, on the CPU; no code from the file is run.

    Args:
        path: the file.
        allow: dotted names of classes and functions of your own that the model may use.
        trust_pickle: whether a pickled model, which runs whatever code it likes when it is read, is loaded too.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint, or asks for what is not allowed.

    """
    path = Path(path)
    try:
        objects = _objects(path)
        if objects:
            return _unpickled(path, objects, trust_pickle)
        content = _checked(torch.load(path, map_location="cpu", weights_only=True))
        return _model(content, Allowed(frozenset([allow] if isinstance(allow, str) else allow)))
    except CheckpointError as error:
        raise CheckpointError(error.what, where=error.where or str(path), remedy=error.remedy) from error.__cause__
    except OSError as error:
        raise CheckpointError(f"cannot read the file: {error.strerror or error}", where=str(path)) from error
    except Exception as error:
        what = f"it lacks {error}" if isinstance(error, KeyError) else _described(error)
        raise CheckpointError(f"the file is damaged: {what}", where=str(path), remedy=_SAVE_AGAIN) from error


def _content(model: PreparedModel) -> dict[str, Any]:
    modules, tensors = tree_data(model, _HIDDEN)
    made_for = model.prepared_for
    return {
        "format": FORMAT,
        "version": VERSION,
        "qatc": qatc.__version__,
        "name": type(model).__name__,
        "graph": graph_data(model),
        "modules": modules,
        "tensors": tensors,
        "target": target_data(None if made_for is None else made_for.target),
        "config": config_data(None if made_for is None else made_for.config),
        "notes": list(ir.notes(model)),
        "inputs": inputs_data(None if made_for is None else made_for.inputs),
        "float_names": None if made_for is None or made_for.float_names is None else dict(made_for.float_names),
    }


def _model(content: dict[str, Any], allowed: Allowed) -> PreparedModel:
    root = build_tree(content["modules"], content["tensors"], allowed)
    state = {name: value for name, value in root.__dict__.items() if name not in _HIDDEN}
    model = assembled(identifier(content["name"]), state)
    model.graph = build_graph(content["graph"], model, allowed)
    model.graph.lint()
    target, config = target_from(content["target"], allowed), config_from(content["config"], allowed)
    if target is not None and config is not None:
        names = [str(node.target) for node in model.graph.nodes if node.op == "placeholder"]
        inputs = inputs_from(content["inputs"], content["version"], names)
        remember(model, PreparedFor(target, config, inputs, _float_names(content.get("float_names"))))
    ir.set_notes(model, map(str, content.get("notes", ())))
    return model


def _float_names(data: Any) -> FloatNames | None:
    return None if data is None else tuple((str(name), str(own)) for name, own in data.items())


def _write(content: dict[str, Any], path: Path) -> None:
    remedy = "choose a file in a folder that exists and can be written, on a disk with room"
    try:
        checksums = serialization.patch({"save.compute_crc32": True})  # type: ignore[attr-defined]  # made at import
        with replacing(path) as file, checksums:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch's own message hides a full disk
        reason = cause.strerror if isinstance(cause, OSError) else str(error).splitlines()[0]
        raise CheckpointError(f"cannot write the checkpoint: {reason}", where=str(path), remedy=remedy) from error


def _objects(path: Path) -> list[str]:
    """Return what makes the file Python objects rather than data; a `CheckpointError` if it is neither."""
    if not path.exists():
        raise CheckpointError("there is no such file", remedy="check the path")
    if path.is_dir():
        raise CheckpointError("this is a folder", remedy="name the file in it that qatc.save wrote")
    with path.open("rb") as file:
        head = file.read(2)
    if head[:1] == b"\x80":  # pickle.dump, and torch.save before version 1.6
        return ["a Python pickle"]
    if head != b"PK":
        raise CheckpointError("this is not a qatc checkpoint" if head else "the file is empty", remedy=_NAME_ANOTHER)
    checked_entries(path, "a qatc checkpoint", _NAME_ANOTHER)
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except (ValueError, RuntimeError) as error:  # TorchScript, or no file of torch's
        raise CheckpointError("this is not a qatc checkpoint", remedy=_NAME_ANOTHER) from error


def _checked(content: Any) -> dict[str, Any]:
    """Return the content if it is that of a checkpoint which this version can read."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        tensors = isinstance(content, dict) and any(isinstance(value, torch.Tensor) for value in content.values())
        raise CheckpointError(
            "this is a state_dict, not a qatc checkpoint" if tensors else "this torch file is not a qatc checkpoint",
            remedy="if it holds weights, load them into the prepared model with load_state_dict, then qatc.save it",
        )
    version = content.get("version")
    if type(version) is not int or version > VERSION:
        raise CheckpointError(
            f"the checkpoint has format {version}, written by qatc {content.get('qatc')}; this version reads {VERSION}",
            remedy="install that version of qatc, or a newer one",
        )
    missing = [key for key in _KEYS if key not in content]
    if missing:
        raise CheckpointError(f"the file is damaged: it lacks {', '.join(missing)}", remedy=_SAVE_AGAIN)
    return content


def _unpickled(path: Path, objects: list[str], trusted: bool) -> PreparedModel:
    if not trusted:
        raise CheckpointError(
            f"this is pickled ({', '.join(sorted(objects)[:3])}), no qatc checkpoint: reading it would run its code",
            remedy="save the model with qatc.save(model, path); if you trust the file, load it with trust_pickle=True "
            "(on the command line: --trust-pickle)",
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise CheckpointError(
            f"the pickled model cannot be read: {_described(error)}",
            remedy="its classes must be importable, in the versions that it was saved with",
        ) from error
    if not isinstance(found, PreparedModel):
        raise CheckpointError(
            f"the file holds a {type(found).__name__}, not a prepared model", remedy="qatc.prepare(model) makes one"
        )
    return found


def _described(error: Exception) -> str:
    first, _, _ = str(error).partition("\n")
    return f"{type(error).__name__}: {first[:200]}"
