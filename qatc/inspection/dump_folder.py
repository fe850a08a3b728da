"""The folder that `dump_dir` names: the graph after each pass as text and as data, and a list of all of it."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import qatc
from qatc.config import QConfig, config_name
from qatc.errors import QatcError
from qatc.inspection.formats import as_json
from qatc.inspection.graph_data import graph_data, text_of
from qatc.pipeline import PassEvent
from qatc.targets import Target

MANIFEST = "manifest.json"


@dataclass
class DumpFolder:
    """An observer that writes `00-trace.txt`, and `03-fuse-conv-bn-act.txt` after each pass that changed something.

    Beside each text stands its graph as `graph_data` gives it (`.json`, a node a line). Behind the last pass
    `manifest.json` is written: `{"qatc": version, "title": class of the model, "target", "config", "steps": [...]}`,
    a step `{"index", "name", "options", "changed", "seconds", "nodes", "text", "graph"}` for the traced graph (index 0)
    and for every pass; `nodes` is their number, `text` and `graph` are file names, None where the pass changed nothing.
    What an earlier run listed there is removed first.

    Raises:
        QatcError: the folder cannot be made, or written to.

    """

    folder: Path
    target: str = ""
    config: str = ""
    steps: list[dict[str, Any]] = field(default_factory=list, init=False)
    _nodes: int = field(default=0, init=False)

    def __call__(self, event: PassEvent) -> None:
        """Write the graph if it changed, and the list once it is complete."""
        try:
            if event.index == 0 or not self.steps:
                self._start()
            self._note(event)
            if event.last:
                self._finish(type(event.gm).__name__)
        except OSError as error:
            raise QatcError(
                f"the dumps cannot be written: {error.strerror}",
                where=str(error.filename or self.folder),
                remedy="name a folder that can be written, on a disk with room",
            ) from error

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in _listed(self.folder / MANIFEST):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        self.steps = []

    def _note(self, event: PassEvent) -> None:
        text = graph = None
        if event.changed:
            name, found = f"{event.index:02}-{event.name}", graph_data(event.gm)
            text, graph, self._nodes = f"{name}.txt", f"{name}.json", len(found["nodes"])
            (self.folder / text).write_bytes(text_of(found).encode())
            (self.folder / graph).write_bytes(as_json(found).encode())
        self.steps.append(
            {
                "index": event.index, "name": event.name, "options": event.options, "changed": event.changed,
                "seconds": round(event.seconds, 6), "nodes": self._nodes, "text": text, "graph": graph,
            }
        )  # fmt: skip

    def _finish(self, title: str) -> None:
        head = {"qatc": qatc.__version__, "title": title, "target": self.target, "config": self.config}
        steps = ",\n".join(map(json.dumps, self.steps))
        unfinished = self.folder / f".{MANIFEST}"  # there whole or not at all, but not waited for until it is on disk
        unfinished.write_text(f'{json.dumps(head)[:-1]}, "steps": [\n{steps}\n]}}\n', encoding="utf-8")
        unfinished.replace(self.folder / MANIFEST)


def _listed(manifest: Path) -> list[str]:
    """Return the files that an earlier run wrote here; none where there is no list of them."""
    try:
        steps = json.loads(manifest.read_text(encoding="utf-8"))["steps"]
        names = [str(step[kind]) for step in steps for kind in ("text", "graph") if step[kind] is not None]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QatcError(
            "this is not a list of dumps", where=str(manifest), remedy="remove it, or name another folder"
        ) from error
    return [name for name in names if Path(name).name == name]


def dumps_of(folder: str | os.PathLike[str] | None, target: Target, config: QConfig) -> tuple[DumpFolder, ...]:
    """Return the observer that dumps into the folder, for a pipeline of that target and configuration; none of None."""
    return () if folder is None else (DumpFolder(Path(folder), target.name, config_name(config)),)
