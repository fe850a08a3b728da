"""What is measured of tensors: its file, and the weights of a saved model on their grids."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import qatc
from qatc.grid import Grid
from qatc.spec import QuantSpec
from qatc.view import MEASURED, Histogram, Measured, measured_json, page_of, read_folder, read_model
from qatc.view.measured import measured_from
from qatc.view.page import page_data
from qatc.view.weights import on_grid
from tests.lowering.networks import calibrated, data, everything
from tests.view.dumps import node, written

SOME = {
    "x": Measured(
        Histogram(-2.0, 2.0, (1, 0, 3, 2), "codes", 1.0, 0.0, (-1, 1)),
        {"SQNR, dB": 31.5},
        {"scale": ((0, 0.1), (1, 0.2))},
    ),
    "y": Measured(),
}


def test_the_file_gives_back_what_was_written_and_the_page_shows_it(tmp_path: Path) -> None:
    folder = written(tmp_path / "dumps", **{"00-trace": {"nodes": [node("x")]}})
    (folder / MEASURED).write_text(measured_json(SOME))
    dump = read_folder(folder)
    assert dump.measured == SOME
    shown = page_data(dump)["measured"]["x"]
    assert shown["histogram"]["counts"] == (1, 0, 3, 2)
    assert shown["figures"] == {"SQNR, dB": 31.5}


@pytest.mark.parametrize(
    "wrong",
    [
        {"histogram": {"low": 0, "high": 0, "counts": [1]}},
        {"histogram": {"low": 0, "high": 1, "counts": []}},
        {"histogram": {"low": 0, "high": 1, "counts": [-1]}},
        {"histogram": {"low": 0, "high": math.inf, "counts": [1]}},
        {"histogram": {"low": 0, "high": 1, "counts": [1], "clip": [0]}},
        {"histogram": {"low": 0, "high": 1, "counts": [1], "colour": "red"}},
        {"figures": {"SQNR": True}},
        {"curves": {"scale": [[0, math.nan]]}},
        {"curves": {"scale": [[0]]}},
    ],
)
def test_numbers_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        measured_from({"x": wrong})


def test_a_histogram_has_a_bin_per_code_and_counts_what_is_clipped() -> None:
    spec = QuantSpec(4, signed=True, symmetric=True)
    values = torch.tensor([-9.0, -1.0, -0.2, 0.0, 0.3, 1.0, 1.2]) * 0.5
    found = on_grid(values, Grid(torch.tensor(0.5), torch.tensor(0.0)), spec)
    assert found.histogram is not None
    assert (found.histogram.low, found.histogram.high) == (-9.5, spec.qmax + 0.5)
    assert len(found.histogram.counts) == found.histogram.high - found.histogram.low
    assert found.histogram.counts[0] == 1, "code -9"
    assert found.histogram.counts[9] == 3, "code 0"
    assert found.histogram.clip == (spec.qmin, spec.qmax)
    assert found.figures["weights not clipped, %"] == pytest.approx(100 * 6 / 7)
    assert found.figures["weight codes used, %"] == pytest.approx(100 * 3 / (spec.qmax - spec.qmin + 1))


def test_a_saved_model_is_shown_with_its_lowering_and_its_weights() -> None:
    model = calibrated("onnxruntime", "w8a8")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    dump = read_model(model)
    assert [dump.steps[0].name, dump.steps[-1].name] == ["saved", "lower-modules"]
    assert dump.steps[-1].nodes is not None
    assert (dump.title, dump.target, dump.config, dump.notes) == ("Everything", "onnxruntime", "w8a8", ())
    for name in ("conv", "body", "depthwise", "head"):
        histogram = dump.measured[name].histogram
        assert histogram is not None
        assert sum(histogram.counts) == model.get_parameter(f"{name}.weight").numel()
        assert histogram.counts[-1] + histogram.counts[0] > 0, "a scale per channel reaches to the end of the grid"
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    shown = json.loads(page_of(dump).split('id="data">')[1].split("</script>")[0])
    assert shown["measured"].keys() == dump.measured.keys()


def test_a_model_that_cannot_be_lowered_yet_is_shown_and_says_why() -> None:
    dump = read_model(qatc.prepare(everything(), data()))
    assert dump.steps[0].nodes is not None
    assert "qatc.calibrate" in dump.notes[0]
