"""How wide sums get: the worst case is reached and never passed, and pairs are those that 16 bits lose."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import qatc
from qatc.cli import lower_main, main
from qatc.errors import SimulationError
from qatc.simulator.accumulators import Accumulator
from tests.lowering.networks import calibrated, data
from tests.simulator.agreement import lowered
from tests.simulator.graphs import Graph, codes
from tools.zoo_suites.classics_signals import DcganGenerator
from tools.zoo_suites.weights import randomise


def matrix(weight: Any, zero: int, bias: Any = None, dtype: Any = np.uint8) -> onnx.ModelProto:
    """Return x [1, K] times weight [K, N]; a step of x is 1, and so is one of the weight."""
    g = Graph()
    x = g.input((1, len(weight)), 1.0, zero, dtype)
    added = [] if bias is None else [g.weight(bias, np.float32(1.0))]
    return g.model(g.op("Gemm", x, g.weight(weight, np.float32(1.0), axis=1), *added), 2)


@pytest.mark.parametrize(("zero", "dtype"), [(0, np.uint8), (131, np.uint8), (0, np.int8)])
def test_the_worst_case_is_reached(zero: int, dtype: Any) -> None:
    weight, bias = codes(37, 1), np.array([-5000], np.int32)
    proto = matrix(weight, zero, bias, dtype)
    low, high = np.iinfo(dtype).min - zero, np.iinfo(dtype).max - zero
    for end, x in ((1, np.where(weight > 0, high, low)), (0, np.where(weight > 0, low, high))):
        (row,) = qatc.accumulators(proto, {"x0": x.T.astype(np.float32)})
        assert row.observed is not None
        # A bias of the other sign comes last: the sum without it is wider.
        assert row.worst[end] == row.observed[end] + (5000 if end else 0)
        assert row.observed[end] == int((weight.astype(np.int64) * x).sum()) - 5000


def test_bits_are_those_of_twos_complement() -> None:
    def bits(low: int, high: int) -> int:
        return Accumulator("", "", 1, (low, high), None, 0, 0).bits

    assert [bits(0, 127), bits(-128, 0), bits(0, 128), bits(-129, 5)] == [8, 8, 9, 9]
    assert Accumulator("", "", 1, (-(2**31), 2**31 - 1), None, 0, 0).fits_int32
    assert not Accumulator("", "", 1, (0, 2**31), None, 0, 0).fits_int32


def test_pairs_are_those_that_saturate_in_pmaddubsw() -> None:
    """Of an unsigned code with two weights, added in 16 bits: 255 * (64 + 64) fits, 255 * (65 + 64) does not."""
    weight = np.array([[64], [64], [65], [64], [-64], [-65], [127], [-127], [127], [0], [100]], np.int8)
    (row,) = qatc.accumulators(matrix(weight, 7))
    assert (row.pairs, row.saturating) == (5, 2)


def test_what_is_wider_than_32_bits_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(matrix(np.full((70_000, 1), 127, np.int8), 0), tmp_path / "wide.onnx")
    assert main(["accumulators", str(tmp_path / "wide.onnx")]) == 1
    assert "1 layers: 0 fit int32" in capsys.readouterr().out


def test_lowering_warns_of_sums_that_may_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Linear(70_000, 1)
    nn.init.ones_(model.weight)
    x = torch.rand(2, 70_000)
    prepared = qatc.prepare(model, x)
    qatc.calibrate(prepared, [x], progress=False)
    qatc.save(prepared, tmp_path / "model.pt")
    assert lower_main([str(tmp_path / "model.pt")]) == 0
    printed = capsys.readouterr().out
    assert "the sums of 1 layers may not fit int32" in printed
    assert "qatc accumulators" in printed
    qatc.save(calibrated("onnxruntime", "w8a8"), tmp_path / "small.pt")
    assert lower_main([str(tmp_path / "small.pt")]) == 0
    assert "int32" not in capsys.readouterr().out


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_network_has_a_row_for_each_layer(target: str) -> None:
    """Int32 biases of one target and float ones of the other, on the same grid, are both part of the sums."""
    found = qatc.accumulators(calibrated(target, "w8a8"), {"x": data().numpy()})
    layers = ["conv/Conv", "pre/Conv", "body/Conv", "depthwise/Conv", "head/Gemm"]
    assert [row.name for row in found] == [name for name in layers if target == "onnxruntime" or name != "pre/Conv"]
    assert [row.terms for row in found if row.name != "pre/Conv"] == [27, 144, 9, 32]
    for row in found:
        assert row.observed is not None
        assert row.worst[0] <= row.observed[0] < row.observed[1] <= row.worst[1]
    assert found[0].pairs == 16 * 13
    assert str(found).count("\n") == len(found) + 1


def test_few_bits_make_narrow_sums() -> None:
    """Their codes are limited behind QuantizeLinear."""
    wide, narrow = (qatc.accumulators(calibrated("onnxruntime", config)) for config in ("w8a8", "w4a4"))
    assert narrow[2].bits <= wide[2].bits - 6
    assert narrow[2].saturating == 0


def test_transposed_convolutions_and_products_of_activations() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16)
    proto = lowered(randomise(DcganGenerator(), (x,)), x, "tensorrt")
    found = qatc.accumulators(proto, {proto.graph.input[0].name: x.numpy()})
    assert any(row.op == "ConvTranspose" for row in found)
    g = Graph()
    y = g.op("MatMul", g.input((2, 5), 1.0, 0), g.input((5, 3), 1.0, 100, np.uint8))
    (row,) = qatc.accumulators(g.model(y, 2))
    assert row.worst == (-5 * 255 * 100, 5 * 255 * 155)


def test_the_command_reads_data_and_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(matrix(codes(12, 3), 128), tmp_path / "model.onnx")
    np.savez(tmp_path / "x.npz", np.arange(12, dtype=np.float32).reshape(1, 12))
    assert main(["accumulators", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "x.npz"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["op"], row["terms"], row["fits_int32"]) == ("Gemm", 12, True)
    assert row["observed_bits"] <= row["bits"]


def test_bad_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "not.onnx").write_bytes(b"nothing of the kind")
    assert main(["accumulators", str(tmp_path / "not.onnx")]) == 2
    assert main(["accumulators", str(tmp_path / "gone.onnx")]) == 2
    assert "gone.onnx" in capsys.readouterr().err
    with pytest.raises(SimulationError, match="x0"):
        qatc.accumulators(matrix(codes(12, 3), 128), {"y": np.zeros((1, 12), np.float32)})
