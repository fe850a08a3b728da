"""`qatc debug`: what it prints, what it writes, and what it says of bad input."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import qatc
from qatc.cli import main
from qatc.view import read_folder
from qatc.view.measured import measured_from
from tests.debugging.networks import Two, fixed, ready
from tests.lowering.networks import calibrated, data, everything
from tests.models import images, randomise


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    model = calibrated("onnxruntime", "w8a8")
    qatc.save(model, tmp_path / "model.pt")
    np.savez(tmp_path / "x.npz", x=data(20).numpy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: object) -> int:
    return main(["debug", *map(str, args)])


def test_prints_the_worst_ten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model.pt", "--data", "x.npz") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("x_q ")
    assert lines[-2] == "5 more, which each add less"
    assert lines[-1].endswith("over 2 batches")
    assert run("model.pt", "--data", "x.npz", "--all", "--limit", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 15 + 1
    assert lines[-1].endswith("over 1 batch")


def test_prints_and_writes_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model.pt", "--data", "x.npz", "--json", "-o", "report.json", "--measured", "measured.json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(Path("report.json").read_text(encoding="utf-8"))
    in_python = qatc.debug(qatc.load("model.pt"), [data(20)[:16], data(20)[16:]], progress=False)
    assert printed == json.loads(in_python.json())
    assert measured_from(json.loads(Path("measured.json").read_text(encoding="utf-8"))) == in_python.measured()


def test_a_page_shows_it_at_the_nodes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("model.pt", "--data", "x.npz", "--view", "page.html", "--json") == 0
    page = Path("page.html").read_text(encoding="utf-8")
    shown = json.loads(page.split('id="data">')[1].split("</script>")[0])["measured"]
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert set(shown) == {row["node"] for row in rows}
    for row in rows:
        assert shown[row["node"]]["figures"]["accumulated SQNR, dB"] == row["accumulated_sqnr"]
        assert shown[row["node"]]["histogram"]["counts"] == row["histogram"]["counts"]


def test_a_folder_of_dumps_shows_it_too(folder: Path) -> None:
    model = qatc.prepare(everything(), data(), dump_dir="dumps")
    qatc.calibrate(model, [data()], progress=False)
    qatc.save(model, "model.pt")
    assert run("model.pt", "--data", "x.npz", "--measured", "dumps/measured.json") == 0
    dump = read_folder(Path("dumps"))
    assert not dump.notes
    last = next(step.nodes for step in reversed(dump.steps) if step.nodes is not None)
    assert set(dump.measured) <= {node["name"] for node in last}


@pytest.mark.parametrize("batch", [None, 8])
def test_compares_the_codes_of_a_file(folder: Path, batch: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    qatc.lower(calibrated("onnxruntime", "w8a8"), "model.onnx", options=qatc.LoweringOptions(batch=batch))
    assert run("model.pt", "--data", "x.npz", "--onnx", "model.onnx", "-o", "report.json") == 0
    assert "codes differ from the simulation per op" in capsys.readouterr().out
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    activations = [row for row in report["rows"] if row["kind"] == "activation"]
    assert all(row["file"]["codes"] > 0 and row["file"]["differing"] <= 1 for row in activations)
    assert all(row["file"] is None for row in report["rows"] if row["kind"] == "weight")


def test_names_the_tensor_that_a_file_computes_otherwise(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qatc.lower(calibrated("onnxruntime", "w8a8"), "model.onnx")
    proto = onnx.load("model.onnx")
    (weight,) = (c for c in proto.graph.initializer if c.name == "body.weight_codes")
    weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
    onnx.save(proto, "other.onnx")
    assert run("model.pt", "--data", "x.npz", "--onnx", "other.onnx", "-o", "report.json") == 0
    assert "most at body_q networks.py:" in capsys.readouterr().out
    rows = json.loads(Path("report.json").read_text(encoding="utf-8"))["rows"]
    wrong = [row["path"] for row in rows if row["file"] and row["file"]["differing"] > 10]
    assert wrong == ["body_q"], "per op: what reads it is given the simulation's codes"
    assert sum(bool(row["file"] and row["file"]["differing_end_to_end"] > 10) for row in rows) > 1


def test_inputs_in_containers_are_arrays_by_their_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ((images(20, 6), images(20, 6, seed=1)), images(20, 1, seed=2))
    model = qatc.prepare(randomise(Two()).eval(), given)
    qatc.calibrate(model, [given], progress=False)
    qatc.save(model, "two.pt")
    qatc.lower(model, "two.onnx")
    np.savez("two.npz", pair_0=given[0][0].numpy(), pair_1=given[0][1].numpy(), shift=given[1].numpy())
    assert run("two.pt", "--data", "two.npz", "--onnx", "two.onnx", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["outputs"]["sqnr"] == pytest.approx(qatc.debug(model, [given], progress=False).outputs.sqnr, abs=1e-3)


def test_the_scales_of_a_training_run_are_curves(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = qatc.ScaleHistory(qatc.load("model.pt"), points=4)
    for _ in range(3):
        history.step()
    torch.save(history.state_dict(), "scales.pt")
    assert run("model.pt", "--data", "x.npz", "--history", "scales.pt", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert all([step for step, _ in row["scales"]] == [0, 1, 2] for row in rows)


def bad_inputs() -> dict[str, tuple[list[str], str]]:
    return {
        "no model": (["none.pt", "--data", "x.npz"], "none.pt"),
        "no data": (["model.pt", "--data", "none.npz"], "none.npz"),
        "other names": (["model.pt", "--data", "y.npz"], "expected: x float32"),
        "no samples": (["model.pt", "--data", "x.npz", "--limit", "0"], "--limit 0"),
        "no file": (["model.pt", "--data", "x.npz", "--onnx", "none.onnx"], "none.onnx"),
        "no onnx": (["model.pt", "--data", "x.npz", "--onnx", "x.npz"], "not an ONNX model"),
        "other onnx": (["model.pt", "--data", "x.npz", "--onnx", "other.onnx"], "not of this model"),
        "float onnx": (["model.pt", "--data", "x.npz", "--onnx", "float.onnx"], "no quantized tensor"),
        "no history": (["model.pt", "--data", "x.npz", "--history", "none.pt"], "none.pt"),
        "wrong history": (["model.pt", "--data", "x.npz", "--history", "wrong.pt"], "no history"),
        "other history": (["model.pt", "--data", "x.npz", "--history", "other.pt"], "no history"),
        "uncalibrated": (["raw.pt", "--data", "x.npz"], "qatc.calibrate"),
        "no folder": (["model.pt", "--data", "x.npz", "-o", "none/report.json"], "none/report.json"),
    }


@pytest.mark.parametrize("which", bad_inputs())
def test_bad_input_is_one_message_and_writes_nothing(
    which: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, wanted = bad_inputs()[which]
    np.savez("y.npz", y=data().numpy())
    qatc.save(qatc.prepare(everything(), data()), "raw.pt")
    qatc.lower(ready(fixed()), "other.onnx")
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3, 16, 16])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3, 16, 16])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph), "float.onnx")
    torch.save({"scales": torch.tensor([math.nan])}, "wrong.pt")
    torch.save(qatc.ScaleHistory(ready(fixed())).state_dict(), "other.pt")
    before = sorted(folder.iterdir())
    out: list[Any] = [] if "-o" in arguments else ["-o", "report.json"]
    assert run(*arguments, *out) == 2
    said = capsys.readouterr()
    assert said.err.startswith("qatc: error: ")
    assert wanted in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert sorted(folder.iterdir()) == before
