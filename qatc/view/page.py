"""The page: one HTML file with the data, its own script and style, and the library that draws; it needs no network."""

import base64
import hashlib
import html
import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from qatc.inspection import NodeData, histories
from qatc.view.difference import aligned
from qatc.view.drawing import Drawing, drawn
from qatc.view.dump import Dump
from qatc.view.measured import measured_data

_ASSETS = files("qatc.view") / "assets"
_LIBRARY = files("qatc.view") / "vendor" / "cytoscape.min.js"
SCRIPTS = ("model", "text", "elements", "graph", "strip", "passes", "plots", "details", "search", "main")


def page_of(dump: Dump) -> str:
    """Return the page as HTML. Nothing that the dump says can become markup or script of it."""
    library, script = _LIBRARY.read_text(encoding="utf-8"), _script()
    return Template(_asset("page.html")).substitute(
        title=html.escape(f"{dump.title} - qatc"),
        policy=_policy(library, script),
        style=_asset("style.css"),
        library=library,
        data=_inert(json.dumps(page_data(dump), separators=(",", ":"), allow_nan=False)),
        script=script,
    )


def page_data(dump: Dump) -> dict[str, Any]:
    """Return what the page shows, as its script reads it (`assets/model.js`).

    `records` holds each distinct node once; a step's `nodes` and `removed` are indices into it. `rows` are the runs of
    the side-by-side view (`qatc.view.difference`), `places` and `edges` the drawing (`qatc.view.drawing`), all flat.
    """
    records = _Records()
    before: tuple[NodeData, ...] = ()
    drawing = Drawing((), ())
    steps = []
    for step in dump.steps:
        data = {"index": step.index, "name": step.name, "options": step.options, "seconds": step.seconds}
        if step.nodes is not None:
            names = [node["name"] for node in step.nodes]
            kept = set(names)
            removed = [node for node in before if node["name"] not in kept]
            if len(drawing.places) != len(names) or removed or _edges(step.nodes) != _edges(before):
                drawing = drawn(step.nodes, removed, before)
            data |= {
                "nodes": records.indices(step.nodes),
                "removed": records.indices(removed),
                "rows": _flat(aligned([node["name"] for node in before], names)),
                "places": _flat(drawing.places),
                "edges": _flat(drawing.edges),
            }
            before = step.nodes
        steps.append(data)
    return {
        "title": dump.title, "qatc": dump.qatc, "target": dump.target, "config": dump.config, "notes": dump.notes,
        "records": records.nodes, "steps": steps, "measured": measured_data(dump.measured),
        "histories": _histories(dump),
    }  # fmt: skip


class _Records:
    """The distinct nodes of all steps, without what they do not have."""

    def __init__(self) -> None:
        self.nodes: list[NodeData] = []
        self._known: dict[str, int] = {}

    def indices(self, nodes: Iterable[NodeData]) -> list[int]:
        """Return the index of each node's record."""
        return [self._index(node) for node in nodes]

    def _index(self, node: NodeData) -> int:
        said = {key: value for key, value in node.items() if value not in (None, "", False, []) and key != "op"}
        index = self._known.setdefault(json.dumps(said), len(self.nodes))
        if index == len(self.nodes):
            self.nodes.append(said)
        return index


def _edges(nodes: Iterable[NodeData]) -> list[tuple[Any, ...]]:
    return [(node["name"], node["inputs"], node["weight"], node["type"]) for node in nodes]


def _histories(dump: Dump) -> dict[str, list[Any]]:
    """Return [position of the step that it was born in, those that changed it, removed it, and into what], by node."""
    graphs = ((at, {"nodes": list(step.nodes)}) for at, step in enumerate(dump.steps) if step.nodes is not None)
    found = histories(graphs, len(dump.steps))
    return {name: [node.born, node.changed, node.removed, node.into] for name, node in found.items()}


def _flat(rows: Iterable[tuple[int, ...]]) -> list[int]:
    return [value for row in rows for value in row]


def _inert(text: str) -> str:
    """Return JSON that cannot end the element that it stands in."""
    return text.replace("<", "\\u003c")


def _policy(*scripts: str) -> str:
    """Return a Content-Security-Policy: these scripts run and no others; nothing is fetched from anywhere."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _script() -> str:
    return "'use strict';\n" + "\n".join(f"/* {name}.js */\n{_asset(f'{name}.js')}" for name in SCRIPTS)
