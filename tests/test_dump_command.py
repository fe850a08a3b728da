"""`qatc dump`: the forms that it writes, and what it says of bad input."""

import json
from pathlib import Path

import networkx as nx
import pytest

import qatc
from qatc.cli import main
from qatc.printer import format_graph
from tests.inspection.networks import Residual, calibrated
from tests.models import images


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    qatc.save(calibrated(Residual()), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_it_prints_the_text_of_a_saved_model(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dump", str(checkpoint)]) == 0
    assert capsys.readouterr().out == format_graph(qatc.load(checkpoint)) == format_graph(calibrated(Residual()))


def test_it_writes_json_and_graphml(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "graph"
    assert main(["dump", str(checkpoint), "--format", "json", "-o", str(out)]) == 0
    names = [node["name"] for node in json.loads(out.read_text())["nodes"]]
    assert names[:3] == ["x", "x_q", "conv"]
    assert main(["dump", str(checkpoint), "--format", "graphml", "-o", str(out)]) == 0
    assert list(nx.read_graphml(out)) == names
    assert capsys.readouterr().out == ""


def test_a_model_that_was_not_calibrated_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qatc.save(qatc.prepare(Residual(), images()), tmp_path / "m.pt")
    assert main(["dump", str(tmp_path / "m.pt"), "--format", "json"]) == 0
    assert {str(node["range"]) for node in json.loads(capsys.readouterr().out)["nodes"]} == {"None"}


@pytest.mark.parametrize(
    ("content", "said"), [(None, "there is no such file"), (b"", "the file is empty"), (b"x = 1", "not a qatc checkp")]
)
def test_bad_files_are_explained(
    content: bytes | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.pt"
    if content is not None:
        path.write_bytes(content)
    assert main(["dump", str(path), "-o", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("qatc: error: ")
    assert said in printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("output", ["missing/graph.txt", "."])
def test_an_output_that_cannot_be_written_is_explained(
    output: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dump", str(checkpoint), "-o", str(tmp_path / output)]) == 2
    assert "the output cannot be written" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_the_formats_are_checked(checkpoint: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["dump", str(checkpoint), "--format", "dot"])
    assert caught.value.code == 2
