"""What qatc-lower says of the ops: which are float, where, and why; which calls were taken apart; what cannot be."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qatc
from qatc.cli import lower_main
from qatc.commands.summary import summary
from qatc.report import Report, ReportRow
from tests.models import images, randomise


class Mixed(nn.Module):
    """Attention, and ops that ONNX Runtime has no integers for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.norm = nn.Linear(8, 8), nn.Linear(8, 4), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        y = F.scaled_dot_product_attention(y, y, y)
        z: Tensor = self.last(F.gelu(y))
        return z


class Lgamma(nn.Module):
    """An op that ONNX has no form for."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.lgamma(self.first(x))


def saved(model: nn.Module, path: Path) -> Path:
    x = images(2, 5, 8)
    prepared = qatc.prepare(randomise(model), x)
    qatc.calibrate(prepared, [x], progress=False)
    qatc.save(prepared, path)
    return path


def line_of(text: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


def test_the_float_remainder_is_told_by_reason_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lower_main([str(saved(Mixed(), tmp_path / "m.pt"))]) == 0
    printed = capsys.readouterr().out
    attention, norm = line_of("y = F.scaled_dot_product"), line_of("y = self.norm(")
    assert (
        f"taken apart: 1 calls into 5 of these ops (scaled_dot_product_attention test_summary.py:{attention})"
        in printed
    )
    assert "  1: LayerNormalization: LayerNormalization has no integer form on onnxruntime (norm at " in printed
    assert f"(norm at test_summary.py:{norm})" in printed
    assert "Gelu has no integer form" in printed
    assert "why float" not in printed


def test_report_prints_every_op(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(Mixed(), tmp_path / "m.pt")
    assert lower_main([str(model), "--report"]) == 0
    assert str(qatc.load(model).report) in capsys.readouterr().out


def test_an_op_without_a_form_is_named_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lower_main([str(saved(Lgamma(), tmp_path / "m.pt"))]) == 2
    error = capsys.readouterr().err
    assert "%lgamma" in error
    assert f"test_summary.py:{line_of('return torch.lgamma')}" in error
    assert "step 3/3" not in error
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]


def test_many_reasons_take_ten_lines() -> None:
    rows = [ReportRow(f"op{n}", "Op", "", "", "", f"reason {n}", "net.py:3") for n in range(30)]
    lines = summary(
        Report((*rows, ReportRow("again", "Other", "", "", "", "reason 29"), ReportRow("q", "Conv", "s8", "", "", "")))
    )
    assert lines[0] == "quantized: 1 of 32 ops, 1 with weights"
    assert len(lines) == 13
    assert lines[2] == "  2: Op, Other: reason 29 (op29 at net.py:3 and 1 more)"
    assert lines[-1] == "  20 for 20 other reasons"
