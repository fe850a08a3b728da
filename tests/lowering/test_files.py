"""What is written beside the ONNX file, and what is in its metadata: encodings, runtime options, the configuration."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import qatc
from qatc.cli import lower_main
from qatc.errors import LoweringError
from qatc.lowering import lowered_proto
from qatc.lowering.encodings import encodings
from qatc.lowering.lowered import write_all
from tests.lowering.networks import calibrated, data, everything


def described(target: str, config: str = "w8a8") -> tuple[onnx.ModelProto, Mapping[str, Any], Mapping[str, Any]]:
    """Return a file, and its encodings of activations and of parameters by name."""
    lowered = lowered_proto(calibrated(target, config))
    found = encodings(lowered.proto, lowered.widths)
    assert found["version"] == "1.0.0"
    activations, parameters = (
        {e["name"]: e for e in found[f"{kind}_encodings"]} for kind in ("activation", "param")
    )  # fmt: skip
    assert [len(activations), len(parameters)] == [len(found[f"{k}_encodings"]) for k in ("activation", "param")]
    return lowered.proto, activations, parameters


@pytest.mark.parametrize("target", ["qnn", "tensorrt", "tidl-tda4vm"])
def test_encodings_are_the_files_scales_and_offsets_on_the_unsigned_grid(target: str) -> None:
    proto, activations, parameters = described(target)
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in proto.graph.initializer}
    quantized = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    assert {node.input[0] for node in quantized} == set(activations)
    tensors = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    assert {*activations, *parameters} <= tensors
    for node in quantized:
        found, zero_point = activations[node.input[0]], constants[node.input[2]]
        signed = zero_point.dtype == np.int8
        assert found["scale"] == [float(constants[node.input[1]])]
        assert found["offset"] == [-int(zero_point) - (128 if signed else 0)]
        assert found["is_sym"] == (signed and zero_point == 0)
        assert (found["bw"], found["dtype"], found["enc_type"]) == (8, "INT", "PER_TENSOR")
    assert len(parameters) == sum(bool(row.weight) for row in calibrated(target, "w8a8").report.rows)
    body = parameters["body/DequantizeLinear"]
    assert body["is_sym"]
    channels = 1 if target == "tidl-tda4vm" else 16
    assert body["enc_type"] == ("PER_TENSOR" if channels == 1 else "PER_CHANNEL")
    assert body["offset"] == [-128] * channels
    np.testing.assert_array_equal(np.float32(body["scale"]), constants["body.weight_scale"].reshape(-1))


def test_encodings_have_the_width_that_was_trained_not_that_of_storage() -> None:
    _, activations, parameters = described("onnxruntime", "w4a4")
    assert {e["bw"] for e in parameters.values()} == {4, 8}
    assert parameters["body/DequantizeLinear"]["offset"] == [-8] * 16
    assert {e["bw"] for e in activations.values()} == {4, 8}


def test_encodings_of_16_bits() -> None:
    config = qatc.QConfig(qatc.LayerConfig(activation_bits=16))
    model = qatc.prepare(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Tanh()), data(), target="qnn", config=config)
    qatc.calibrate(model, [data()], progress=False)
    lowered = lowered_proto(model)
    found = {e["name"]: e for e in encodings(lowered.proto, lowered.widths)["activation_encodings"]}
    assert found["1"] == {
        "name": "1", "dtype": "INT", "bw": 16, "enc_type": "PER_TENSOR", "is_sym": False, "scale": [1 / 32768],
        "offset": [-32768],
    }  # fmt: skip


def run(*arguments: object) -> int:
    return lower_main([str(argument) for argument in arguments])


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    for target in ("tidl", "qnn"):
        qatc.save(calibrated(target, "w8a8"), tmp_path / f"{target}.pt")
    return tmp_path


def test_the_command_writes_what_is_asked_for_and_says_so(
    checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoints / "qnn.pt", "--encodings", checkpoints / "e.json") == 0
    printed = capsys.readouterr().out
    assert f"wrote {checkpoints / 'qnn.onnx'}: " in printed
    assert f"wrote {checkpoints / 'e.json'}\n" in printed
    assert "runtime option: backend_path = libQnnHtp.so" in printed
    assert json.loads((checkpoints / "e.json").read_text())["version"] == "1.0.0"
    assert run(checkpoints / "tidl.pt") == 0
    printed = capsys.readouterr().out
    assert f"wrote {checkpoints / 'tidl.tidl.json'}\n" in printed
    assert json.loads((checkpoints / "tidl.tidl.json").read_text()) == {
        "tensor_bits": 8, "advanced_options:prequantized_model": 1, "advanced_options:quantization_scale_type": 4,
    }  # fmt: skip
    assert {path.name for path in checkpoints.iterdir()} == {
        "qnn.pt", "qnn.onnx", "e.json", "tidl.pt", "tidl.onnx", "tidl.tidl.json",
    }  # fmt: skip


@pytest.mark.parametrize("encodings_path", ["nowhere/e.json", ".", "qnn.onnx"])
def test_where_one_file_cannot_be_written_none_is(
    encodings_path: str, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoints / "qnn.pt", "--encodings", checkpoints / encodings_path) == 2
    assert "qatc: error: " in capsys.readouterr().err
    assert {path.name for path in checkpoints.iterdir()} == {"qnn.pt", "tidl.pt"}


def test_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "folder").mkdir()
    for other in (tmp_path / "missing" / "b", tmp_path / "folder"):
        with pytest.raises(LoweringError, match="cannot be written"):
            write_all({tmp_path / "a": b"new", other: b"new"})
        assert (tmp_path / "a").read_bytes() == b"old"
        assert {path.name for path in tmp_path.iterdir()} == {"a", "folder"}
    write_all({tmp_path / "a": b"new", tmp_path / "b": b"too"})
    assert [(tmp_path / name).read_bytes() for name in ("a", "b")] == [b"new", b"too"]


def test_lower_writes_the_same_files_as_the_command(tmp_path: Path) -> None:
    qatc.lower(calibrated("tidl", "w8a8"), tmp_path / "m.onnx", encodings=tmp_path / "m.json")
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.tidl.json", "m.json"}


def test_metadata_reads_back(tmp_path: Path) -> None:
    rules = (qatc.Rule("body", weight_bits=6), qatc.Rule("type:MaxPool2d", quantize=False))
    model = qatc.prepare(everything(), data(), target="tidl", config=qatc.QConfig(rules=rules))
    qatc.calibrate(model, [data()], progress=False)
    qatc.lower(model, tmp_path / "m.onnx", opset=17)
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert found["qatc.version"] == qatc.__version__
    assert found["qatc.target"] == "tidl"
    assert found["qatc.opset"] == "17"
    assert qatc.QConfig.parse(found["qatc.config"]) == qatc.QConfig(rules=rules)


def test_metadata_says_which_rules_are_code() -> None:
    config = qatc.QConfig(rules=(qatc.Rule(lambda name, module: name == "body", weight_bits=6), qatc.Rule("conv")))
    model = qatc.prepare(everything(), data(), config=config)
    qatc.calibrate(model, [torch.cat([data()])], progress=False)
    text = next(e.value for e in lowered_proto(model).proto.metadata_props if e.key == "qatc.config")
    assert text.startswith("# rules that match by code, left out: 1\n")
    assert qatc.QConfig.parse(text).rules == (qatc.Rule("conv"),)
