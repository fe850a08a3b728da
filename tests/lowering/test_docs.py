"""docs/lowering.md: its table has every option, its examples run."""

import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import qatc
from qatc.cli import lower_main
from tests.lowering.networks import calibrated, data

TEXT = (Path(__file__).parent.parent.parent / "docs" / "lowering.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for _, block in BLOCKS for line in block.splitlines() if line.startswith("qatc-lower ")]
PYTHON = [block for kind, block in BLOCKS if kind == "python"]


def test_the_table_has_every_option() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(--[\w-]+)` \|", TEXT, re.MULTILINE)
    names = [field.name for field in fields(qatc.LoweringOptions)]
    assert rows == [(name, "--" + name.replace("_", "-")) for name in names]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for_tensorrt = "tensorrt" in command and "--replace" not in command
    qatc.save(calibrated("tensorrt" if for_tensorrt else "onnxruntime", "w8a8"), "model.pt")
    np.savez("calib.npz", x=data().numpy())
    assert lower_main(command.split()[1:]) == 0
    assert Path("model.onnx").exists()


@pytest.mark.parametrize("block", PYTHON)
def test_python_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(block, {"qatc": qatc, "model": calibrated("onnxruntime", "w8a8"), "batches": [data()]})


def test_the_examples_were_found() -> None:
    assert len(COMMANDS) == 6
    assert len(PYTHON) == 3
