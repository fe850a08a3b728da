"""The benches over targets and of latency: a row each, what their tables say, and going on where one ended."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from tools.bench import cells, latency, targets
from tools.bench.corpus import CONVOLUTIONAL, CORPUS


def _row(target: str, config: str, differing: int = 0, end_to_end: int = 0, **more: object) -> cells.Row:
    found = {"codes": 1_000_000, "differing": differing, "at_ties": 0, "step": int(differing > 0),
             "end_to_end": end_to_end, "sqnr": None, "jitter": None}  # fmt: skip
    return {
        "model": "unet", "target": target, "config": config,
        "runtimes": {"onnxruntime-unoptimized": found,
                     "onnxruntime": {**found, "differing": 7, "step": 2, "sqnr": 31.46}},
        "passed": True, "simulated": 3, "float_layers": 2, "openvino_float": None, "errors": 1, "warnings": 4,
        "bytes": 250, **more,
    }  # fmt: skip


ROWS = [
    {"model": "unet", "target": "float", "config": "-", "bytes": 1000},
    _row("tensorrt", "w8a8", 5, 90),
    _row("tensorrt", "w8a8-pow2"),
    {"model": "detector", "target": "tensorrt", "config": "w8a8", "error": "LoweringError: no"},
]


def test_a_line_has_what_was_measured_on_each_runtime() -> None:
    (runtimes, _, free, pow2, failed) = targets.table(ROWS, "tensorrt")
    assert runtimes.split()[:2] == ["onnxruntime-unoptimized", "onnxruntime"]
    assert free.split() == [
        "unet", "free", "1,000,000", "5", "1", "90", "inf", "7", "2", "90", "31.5", "2", "1", "/", "4", "0.25",
    ]  # fmt: skip
    assert pow2.split()[:4] == ["unet", "pow2", "1,000,000", "0"]
    assert failed.split() == ["detector", "free", "LoweringError:", "no"]


def test_goals_are_of_the_runtime_that_the_target_is_verified_on() -> None:
    text = "\n".join(targets.goals(ROWS))
    assert "verified on the target's own runtime: 2 of 2 files" in text
    assert "0 codes differ in all, of 1 files" in text
    assert "at most 0.50 codes in 100,000 differ per op, by 1, of 1 files" in text
    assert "lint errors: 2" in text
    assert "failed: detector tensorrt w8a8 of 4" in text
    other = "\n".join(targets.goals([_row("onnxruntime", "w8a8", 5), _row("onnxruntime", "w8a8-pow2", passed=False)]))
    assert "1 of 2 files" in other
    assert "at most 0.70 codes in 100,000 differ per op, by 2" in other
    assert "left in float by ONNX Runtime in files for it: 4" in other


def test_the_page_has_every_target() -> None:
    page = targets.markdown(ROWS, ["tensorrt"])
    assert "## tensorrt\n\n```\n" in page
    assert page.count("```") == 4


@pytest.mark.parametrize(("target", "config"), [("onnxruntime", "w8a8"), ("tensorrt", "w8a8-pow2")])
def test_one_network_is_measured(target: str, config: str) -> None:
    row = targets.measured("unet", target, config, 16)
    own = row["runtimes"]["onnxruntime" if target == "onnxruntime" else "onnxruntime-unoptimized"]
    assert own["codes"] > 50_000
    assert own["differing"] == 0
    assert row["passed"]
    assert row["float_layers"] == (0 if target == "onnxruntime" else 6)
    assert row["quantized_layers"] == 8
    assert row["errors"] == 0
    assert row["simulated"] == (0 if target == "onnxruntime" else None)
    assert row["runtimes"]["simulator"]["differing"] == 0


def test_what_is_noted_is_not_run_again_and_what_failed_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.jsonl"
    failed = {**ROWS[2], "error": "not done after 1 s"}
    file.write_text("\n".join(map(json.dumps, [*ROWS[:2], failed])) + "\n")
    only = ["--models", "unet", "--targets", "tensorrt", "--resume", str(file), "--limit", "0.01"]
    assert targets.main(only) == 0
    assert "not done after 0.01 s" in capsys.readouterr().out
    assert len(file.read_text().splitlines()) == 4  # the one that had failed, once more
    assert targets.main([*only, "--configs", "w8a8", "--write", str(tmp_path / "page.md")]) == 0
    assert "failed: none of 2" in capsys.readouterr().out
    assert "unet" in (tmp_path / "page.md").read_text()


def test_a_process_that_ends_badly_is_a_row_with_its_last_words(tmp_path: Path) -> None:
    (row,) = cells.run_all([("a",)], ("model",), lambda cell: ["tools.bench.no_such_module"], None, 60)
    assert row["model"] == "a"
    assert "no_such_module" in row["error"]


def test_several_processes_at_a_time_give_rows_in_the_order_of_the_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = "import json, sys, time; time.sleep(float(sys.argv[1])); print(json.dumps({'slept': sys.argv[1]}))"
    (tmp_path / "echoed.py").write_text(echo)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    file = tmp_path / "rows.jsonl"
    rows = cells.run_all([("0.5",), ("0",)], ("wait",), lambda cell: ["echoed", *cell], file, 60, jobs=2)
    assert rows == [{"wait": "0.5", "slept": "0.5"}, {"wait": "0", "slept": "0"}]
    assert len(file.read_text().splitlines()) == 2


def test_the_three_files_of_one_network_are_timed() -> None:
    row = latency.measured("unet", 1, 1, 32)
    assert row["ops"]["qatc"]["QLinearConv"] == 8
    assert set(row["ms"]) == set(row["bytes"]) == {"float", "qatc", "ort"}
    assert min(row["ms"].values()) > 0
    assert row["bytes"]["qatc"] < row["bytes"]["float"]


def test_latency_says_which_are_slower_and_what_their_graphs_have() -> None:
    times = {"ms": {"float": 4.0, "qatc": 2.0, "ort": 2.5}, "bytes": {"float": 4000, "qatc": 1000, "ort": 1100}}
    ops = {"ops": {"float": {}, "qatc": {"QLinearConv": 3, "Add": 1}, "ort": {"QLinearConv": 3, "Transpose": 2}}}
    slow = {"model": "unet", "threads": "2", **times, **ops, "ms": {"float": 4.0, "qatc": 3.0, "ort": 2.0}}
    rows: list[cells.Row] = [{"model": "resnet50", "threads": "1", **times, **ops}, slow]
    assert latency.table(rows)[1].split()[:7] == ["resnet50", "1", "4.00", "2.00", "2.50", "0.50", "0.80"]
    assert latency.goals(rows) == [
        "over 1.00 of ONNX Runtime's own: unet (2): 1.50 of 2 (goal: none)",
        "median of qatc / ORT: 1.15",
        "resnet50: int8 file 0.250 of the float one (goal: 0.27)",
    ]
    assert latency.differences(rows)[0] == "resnet50, qatc/ORT: Add 1/0, Transpose 0/2"
    page = latency.markdown(rows, "cpu")
    assert "\ncpu time.\n" in page
    assert "- unet, qatc/ORT: Add 1/0, Transpose 0/2" in page


@pytest.mark.parametrize("name", ["detector", "unet"])
def test_networks_of_its_own_give_finite_results(name: str) -> None:
    torch.manual_seed(0)
    model = CORPUS[name].build().eval()
    assert isinstance(model, nn.Module)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 32, 32)).isfinite().all()
    assert name in CONVOLUTIONAL
