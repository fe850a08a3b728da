"""What a page shows: the graphs of a pipeline's steps, read from a dump folder."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qatc.errors import QatcError
from qatc.inspection import MANIFEST, NodeData
from qatc.view.measured import Measured, measured_from
from qatc.view.text_lines import nodes_of

MEASURED = "measured.json"
_NUMBERED = re.compile(r"(\d+)-([\w-]+)\.(?:json|txt)")
_TEXTS = ("name", "op", "kind", "text", "path", "file", "attributes", "quant", "why_float", "fused_into")


@dataclass(frozen=True)
class Step:
    """The trace (index 0) or a pass; `nodes` is the graph after it, None where it changed nothing.

    `seconds` is None where nobody wrote it down.
    """

    index: int
    name: str
    options: str = ""
    seconds: float | None = None
    nodes: tuple[NodeData, ...] | None = None


@dataclass(frozen=True)
class Dump:
    """The steps in order, of what they are, and what was measured of tensors, by the node's name (`Measured`)."""

    title: str
    steps: tuple[Step, ...]
    qatc: str = ""
    target: str = ""
    config: str = ""
    notes: tuple[str, ...] = ()
    measured: Mapping[str, Measured] = field(default_factory=dict)


def read_folder(folder: Path) -> Dump:
    """Return the dumps in a folder: as its manifest lists them, or by the numbers of its files where it has none.

    Graphs are read from `.json`; a folder that has only `.txt` gives what its lines say.

    Raises:
        QatcError: there is no such folder, no dump in it, or a file that is none.

    """
    if not folder.is_dir():
        raise QatcError("there is no such folder", where=str(folder), remedy="name what was given as dump_dir")
    manifest = folder / MANIFEST
    dump = _listed(folder, _json(manifest)) if manifest.exists() else _numbered(folder)
    if not dump.steps or not dump.steps[0].nodes:
        raise QatcError(
            "there are no dumps in this folder",
            where=str(folder),
            remedy="write some: qatc.prepare(model, ..., dump_dir=folder), or qatc lower model.pt --dump-dir folder",
        )
    return dump


def _listed(folder: Path, manifest: Any) -> Dump:
    try:
        steps = tuple(
            Step(
                int(step["index"]), str(step["name"]), str(step["options"]), float(step["seconds"]),
                _nodes(folder, step["graph"] or step["text"]) if step["changed"] else None,
            )
            for step in manifest["steps"]
        )  # fmt: skip
        title, version, target, config = (str(manifest[key]) for key in ("title", "qatc", "target", "config"))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / MANIFEST, "this is not a list of dumps") from error
    return Dump(title, steps, version, target, config, measured=_measured(folder))


def _numbered(folder: Path) -> Dump:
    """Return the dumps of a run that was interrupted, or that an earlier version wrote: each is a pass that changed."""
    files: dict[tuple[int, str], Path] = {}
    for path in sorted(folder.iterdir()):  # .json before .txt
        if found := _NUMBERED.fullmatch(path.name):
            files.setdefault((int(found[1]), found[2]), path)
    read = ((index, name, _nodes(folder, path.name)) for (index, name), path in sorted(files.items()))
    steps = tuple(Step(index, name, nodes=nodes) for index, name, nodes in read if nodes)  # 99-onnx.txt has none
    note = f"{MANIFEST} is missing: the run was interrupted; passes that changed nothing are not listed"
    return Dump(folder.resolve().name, steps, notes=(note,), measured=_measured(folder))


def _nodes(folder: Path, name: Any) -> tuple[NodeData, ...]:
    path = folder / str(name)
    if path.parent != folder:  # a list from elsewhere must not have other files shown
        raise _damaged(folder / MANIFEST, f"it names {name!r}, which is not in this folder")
    if path.suffix != ".json":
        return in_order(nodes_of(_text(path)))
    try:
        return in_order(_json(path)["nodes"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, "this is not the data of a graph") from error


def in_order(nodes: Iterable[NodeData]) -> tuple[NodeData, ...]:
    """Return the nodes, each with those of its inputs that stand before it; a `ValueError` at a name's second node."""
    known: dict[str, NodeData] = {}
    for node in nodes:
        texts = {key: str(node.get(key) or "") for key in _TEXTS}
        if texts["name"] in known:
            raise ValueError(texts["name"])
        inputs = [name for name in node["inputs"] if name in known]
        replaces = list(map(str, node.get("replaces", ())))
        parts = {"inputs": inputs, "replaces": replaces, "weight": bool(node.get("weight")), "type": node.get("type")}
        known[texts["name"]] = {**node, **texts, **parts}
    return tuple(known.values())


def _measured(folder: Path) -> dict[str, Measured]:
    path = folder / MEASURED
    try:
        return measured_from(_json(path)) if path.exists() else {}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"this is not what was measured of tensors: {error}") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "this is not JSON") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number of JSON")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise QatcError(f"cannot read the file: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise _damaged(path, "this is not text") from error


def _damaged(path: Path, what: str) -> QatcError:
    return QatcError(what, where=str(path), remedy="write the dumps again")
