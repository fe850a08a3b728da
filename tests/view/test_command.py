"""`qatc view`: what it writes, and what it says of bad input."""

import webbrowser
from pathlib import Path

import pytest
import torch

import qatc
from qatc.cli import main
from tests.lowering.networks import calibrated
from tests.view.dumps import real_folder


def test_writes_the_page_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "report.html"
    assert main(["view", str(real_folder()), "-o", str(page)]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    said = capsys.readouterr().out
    assert said.startswith(f"wrote {page}: 11 steps, ")
    assert said.endswith(" KiB\n")


def test_opens_the_page_of_a_saved_model_in_the_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    qatc.save(calibrated("onnxruntime", "w8a8"), "model.pt")
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)  # type: ignore[func-returns-value]
    assert main(["view", "model.pt", "--open"]) == 0
    assert opened == [(tmp_path / "model.html").as_uri()]
    assert "lower-modules" in (tmp_path / "model.html").read_text(encoding="utf-8")


def test_dumps_of_lowering_are_a_page_too(tmp_path: Path) -> None:
    qatc.lower(calibrated("onnxruntime", "w8a8"), tmp_path / "model.onnx", dump_dir=tmp_path / "dumps")
    page = tmp_path / "page.html"
    assert main(["view", str(tmp_path / "dumps"), "-o", str(page)]) == 0
    assert "lower-modules" in page.read_text(encoding="utf-8")


def test_says_where_the_page_is_when_there_is_no_browser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert main(["view", str(real_folder()), "-o", str(tmp_path / "page.html"), "--open"]) == 2
    assert "open the file yourself" in capsys.readouterr().err
    assert (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("model", "output", "said"),
    [
        ("nowhere", "page.html", "there is no such file"),
        ("empty", "page.html", "there are no dumps in this folder"),
        ("state.pt", "page.html", "this is a state_dict"),
        ("dumps", "empty", "the page cannot be written"),
        ("dumps", "missing/page.html", "the page cannot be written"),
    ],
)
def test_bad_input_is_one_clear_error(
    model: str, output: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    torch.save({"weight": torch.zeros(1)}, tmp_path / "state.pt")
    before = sorted(tmp_path.iterdir())
    source = real_folder() if model == "dumps" else tmp_path / model
    assert main(["view", str(source), "-o", str(tmp_path / output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("qatc: error: ")
    assert said in error
    assert "Traceback" not in error
    assert sorted(tmp_path.iterdir()) == before
