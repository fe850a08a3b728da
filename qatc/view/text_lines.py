"""Nodes from the lines of a `.txt` dump, for folders without data beside the text."""

import re
from typing import Any

# %conv = FusedConv2d(%x_q, bn=%bn) : f32[N,8,32,32]  k3 p1  w=s8/ch0  # conv block.py:9
_LINE = re.compile(r"%(?P<name>[\w.]+) = (?P<kind>[^\s(]+)\((?P<inputs>.*?)\)(?P<rest>(?:$| : |  ).*)")
_RETURN = re.compile(r"return (?P<inputs>.*)")
_MODULES = re.compile(r"\b(?:bn|grid|then)=%[\w.]+")  # that a layer is given: no nodes, though named as some are
_READ = re.compile(r"%(\w[\w.]*)")
_LOCATION = re.compile(r"(?P<path>.*?) ?(?P<file>[^\s:]+):(?P<line>\d+)")


def nodes_of(text: str) -> tuple[dict[str, Any], ...]:
    """Return a node (as `qatc.inspection.graph_data` has it) per line that is one; what a line lacks stays empty."""
    return tuple(node for node in map(_node, text.splitlines()) if node is not None)


def _node(line: str) -> dict[str, Any] | None:
    found = _LINE.fullmatch(line)
    if found is None:
        end = _RETURN.fullmatch(line)
        return None if end is None else _data(line, "output", "return", end["inputs"], "", "")
    rest, _, comment = found["rest"].partition("  # ")
    kind = rest.strip().removeprefix(": ").partition("  ")[0] if rest.startswith(" : ") else ""
    return _data(line, found["name"], found["kind"], found["inputs"], kind, comment)


def _data(line: str, name: str, kind: str, inputs: str, type_: str, comment: str) -> dict[str, Any]:
    place = _LOCATION.fullmatch(comment)
    read = dict.fromkeys(_READ.findall(_MODULES.sub("", inputs)))
    return {
        "name": name, "op": "", "kind": kind, "inputs": list(read), "text": line,
        "type": type_ or None, "path": place["path"] if place else comment, "file": place["file"] if place else "",
        "line": int(place["line"]) if place else 0, "attributes": "", "quant": "", "why_float": "", "fused_into": "",
        "replaces": [], "range": None, "weight": kind == "parameter",
    }  # fmt: skip
