"""Reading a dump folder: with a list, without, damaged, hostile."""

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from qatc.errors import QatcError
from qatc.view import read_folder
from tests.view.dumps import node, real, real_folder, written

STEP = {"index": 0, "name": "trace", "options": "", "changed": True, "seconds": 0.1, "nodes": 1, "text": None}
GRAPH = {"nodes": [node("x")]}


def listed(*steps: dict[str, Any], graph: str = "00-trace.json") -> dict[str, Any]:
    steps = steps or ({**STEP, "graph": graph},)
    return {"qatc": "1", "title": "Net", "target": "t", "config": "c", "steps": list(steps)}


def test_every_step_is_read_with_its_graph_and_time() -> None:
    dump = real()
    manifest = json.loads((real_folder() / "manifest.json").read_text())
    assert (dump.title, dump.target, dump.config) == ("Everything", "onnxruntime", "w8a8")
    assert [(step.name, step.nodes is not None) for step in dump.steps] == [
        (step["name"], step["changed"]) for step in manifest["steps"]
    ]
    assert all(step.seconds is not None for step in dump.steps)
    assert not dump.notes


def test_a_folder_without_its_list_is_read_by_its_numbers(tmp_path: Path) -> None:
    folder = copytree(real_folder(), tmp_path / "dumps")
    (folder / "manifest.json").unlink()
    (folder / "99-onnx.txt").write_text("<ir_version: 10> graph { }")
    dump = read_folder(folder)
    changed = [step for step in real().steps if step.nodes is not None]
    assert [(step.index, step.name, step.nodes) for step in dump.steps] == [
        (step.index, step.name, step.nodes) for step in changed
    ]
    assert "manifest.json is missing" in dump.notes[0]


def test_text_alone_says_names_kinds_inputs_types_and_places(tmp_path: Path) -> None:
    folder = copytree(real_folder(), tmp_path / "dumps")
    for path in folder.glob("*.json"):
        path.unlink()
    for step, whole in zip(read_folder(folder).steps, (s for s in real().steps if s.nodes is not None), strict=True):
        assert step.nodes is not None
        assert whole.nodes is not None
        for got, wanted in zip(step.nodes, whole.nodes, strict=True):
            for part in ("name", "kind", "inputs", "text", "path", "file", "line"):
                if part != "name" or wanted["op"] != "output":
                    assert got[part] == wanted[part], (step.name, part, wanted["text"])
            assert got["type"] == (wanted["type"] if wanted["op"] != "output" else None)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no dumps"),
        ({"manifest": listed()}, "00-trace.json"),
        ({"manifest": "{"}, "not JSON"),
        ({"manifest": []}, "not a list of dumps"),
        ({"manifest": listed({**STEP, "graph": None, "changed": False})}, "no dumps"),
        ({"manifest": {**listed(), "steps": [{"index": 0}]}}, "not a list of dumps"),
        ({"manifest": listed(graph="../secret.json")}, "which is not in this folder"),
        ({"manifest": listed(graph="/etc/passwd")}, "which is not in this folder"),
        ({"manifest": listed(), "00-trace": [1]}, "not the data of a graph"),
        ({"manifest": listed(), "00-trace": {"nodes": [1]}}, "not the data of a graph"),
        ({"manifest": listed(), "00-trace": {"nodes": [{"name": "x"}]}}, "not the data of a graph"),
        ({"manifest": listed(), "00-trace": {"nodes": [node("x"), node("x")]}}, "not the data of a graph"),
        ({"manifest": listed(), "00-trace": '{"nodes": [{"line": NaN}]}'}, "not JSON"),
        ({"manifest": listed(), "00-trace": '{"nodes": [{"line": 1e999}]}'}, "not JSON"),
        ({"manifest": listed(), "00-trace": "[" * 100_000}, "not JSON"),
        ({"manifest": listed(), "00-trace": GRAPH, "measured": {"x": {"figures": {"SQNR": "high"}}}}, "measured"),
        ({"manifest": listed(), "00-trace": GRAPH, "measured": {"x": {"histogram": {"low": 0}}}}, "measured"),
        ({"manifest": listed(), "00-trace": GRAPH, "measured": [1]}, "measured"),
    ],
)
def test_what_is_no_dump_is_one_clear_error(files: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text(json.dumps(GRAPH))
    with pytest.raises(QatcError) as caught:
        read_folder(written(tmp_path / "dumps", **files))
    assert said in str(caught.value)
    assert str(tmp_path) in caught.value.where


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(QatcError, match="no such folder"):
        read_folder(tmp_path / "nowhere")


def test_an_input_that_does_not_stand_before_its_reader_is_no_edge(tmp_path: Path) -> None:
    graph = {"nodes": [node("a", "b", "elsewhere"), node("b", "a")]}
    nodes = read_folder(written(tmp_path / "dumps", **{"manifest": listed(), "00-trace": graph})).steps[0].nodes
    assert nodes is not None
    assert [n["inputs"] for n in nodes] == [[], ["a"]], "else the graph had a cycle"
