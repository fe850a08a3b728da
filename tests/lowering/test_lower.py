"""The lowered file: clean, named by the user's modules, valid, and the same integers as the simulation."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from inline_snapshot import snapshot
from torch import nn

import qatc
from qatc.errors import CalibrationError, LoweringError
from qatc.lowering import lowered_proto, verify
from qatc.lowering.emit.exporter import clean
from qatc.lowering.verify import code_tensors, with_outputs
from qatc.printer import format_graph
from qatc.runtimes import RUNTIMES
from tests.lowering.networks import Everything, calibrated, data, everything, optimized_ops

TARGETS = ("onnxruntime", "tensorrt")
CONFIGS = ("w8a8", "w8a8-pow2", "w4a4", "w4a4-pow2")


def graph_text(proto: onnx.ModelProto) -> str:
    """Return a line per node: name, inputs, output."""
    return "".join(f"{n.name}({', '.join(n.input)}) -> {', '.join(n.output)}\n" for n in proto.graph.node)


def test_graph_for_onnxruntime_reads_like_the_model() -> None:
    model = qatc.prepare(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)), (data()[..., :8, :8],)
    )
    qatc.calibrate(model, [data()[..., :8, :8]], progress=False)
    assert graph_text(lowered_proto(model).proto) == snapshot("""\
input_q/QuantizeLinear(input, input_q.scale, input_q.zero_point) -> input_q/QuantizeLinear
input_q/DequantizeLinear(input_q/QuantizeLinear, input_q.scale, input_q.zero_point) -> input_q
0/DequantizeLinear(0.weight_codes, 0.weight_scale, 0.weight_zero_point) -> 0/DequantizeLinear
0/DequantizeLinear_1(0.bias_codes, 0.bias_scale, 0.bias_zero_point) -> 0/DequantizeLinear_1
0/Conv(input_q, 0/DequantizeLinear, 0/DequantizeLinear_1) -> 0/Conv
0/Relu(0/Conv) -> 0
0_q/QuantizeLinear(0, 0_q.scale, 0_q.zero_point) -> 0_q/QuantizeLinear
0_q/DequantizeLinear(0_q/QuantizeLinear, 0_q.scale, 0_q.zero_point) -> 0_q
2/Reshape(0_q, 2/Reshape/shape) -> 2
3/DequantizeLinear(3.weight_codes, 3.weight_scale, 3.weight_zero_point) -> 3/DequantizeLinear
3/DequantizeLinear_1(3.bias_codes, 3.bias_scale, 3.bias_zero_point) -> 3/DequantizeLinear_1
3/Gemm(2, 3/DequantizeLinear, 3/DequantizeLinear_1) -> output
""")


def test_graph_for_tensorrt_reads_like_the_model() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    model = qatc.prepare(layers, (data()[..., :8, :8],), target="tensorrt")
    qatc.calibrate(model, [data()[..., :8, :8]], progress=False)
    assert graph_text(lowered_proto(model).proto) == snapshot("""\
input_q/QuantizeLinear(input, input_q.scale, input_q.zero_point) -> input_q/QuantizeLinear
input_q/DequantizeLinear(input_q/QuantizeLinear, input_q.scale, input_q.zero_point) -> input_q
0/DequantizeLinear(0.weight_codes, 0.weight_scale, 0.weight_zero_point) -> 0/DequantizeLinear
0/Conv(input_q, 0/DequantizeLinear, 0.bias) -> 0/Conv
0/Relu(0/Conv) -> 0
2/Reshape(0, 2/Reshape/shape) -> 2
2_q/QuantizeLinear(2, 2_q.scale, 2_q.zero_point) -> 2_q/QuantizeLinear
2_q/DequantizeLinear(2_q/QuantizeLinear, 2_q.scale, 2_q.zero_point) -> 2_q
3/DequantizeLinear(3.weight_codes, 3.weight_scale, 3.weight_zero_point) -> 3/DequantizeLinear
3/Gemm(2_q, 3/DequantizeLinear, 3.bias) -> output
""")


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("target", TARGETS)
def test_integers_equal_the_simulation(target: str, config: str) -> None:
    model = calibrated(target, config)
    check = verify(model, lowered_proto(model), {"x": data(16).numpy()})
    assert check.passed, str(check)
    assert check.codes > 50_000
    if config.endswith("pow2"):
        assert check.differing_end_to_end == 0
        assert check.sqnr == float("inf")


@pytest.mark.parametrize("target", TARGETS)
def test_graph_is_clean(target: str) -> None:
    proto = lowered_proto(calibrated(target, "w8a8")).proto
    ops = Counter(node.op_type for node in proto.graph.node)
    assert not set(ops) & {
        "BatchNormalization",
        "Identity",
        "Dropout",
        "Shape",
        "Gather",
        "Cast",
        "Constant",
        "Unsqueeze",
    }
    assert {node.domain for node in proto.graph.node} == {""}
    assert [o.domain for o in proto.opset_import] == [""]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert all(len(node.input) == 3 for node in proto.graph.node if node.op_type.endswith("QuantizeLinear"))
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_int8_and_every_name_is_the_users(target: str) -> None:
    proto = lowered_proto(calibrated(target, "w8a8")).proto
    types = {c.name: c.data_type for c in proto.graph.initializer}
    for layer in ("conv", "body", "depthwise", "head"):
        assert types[f"{layer}.weight_codes"] == onnx.TensorProto.INT8
        bias = f"{layer}.bias_codes" if target == "onnxruntime" else f"{layer}.bias"
        assert types[bias] == (onnx.TensorProto.INT32 if target == "onnxruntime" else onnx.TensorProto.FLOAT)
    modules = {name for name, _ in everything().named_modules()}
    made_from_functions = {"max_pool2d", "relu_1", "add", "avg_pool2d", "concat", "interpolate", "mean", "flatten"}
    scopes = {node.name.rpartition("/")[0].removesuffix("_q") for node in proto.graph.node}
    assert {s.partition("__call")[0] for s in scopes} <= modules | made_from_functions | {"x"}


def test_nothing_is_left_in_float_on_onnxruntime(tmp_path: Path) -> None:
    proto = lowered_proto(calibrated("onnxruntime", "w8a8")).proto
    assert {"Conv", "FusedConv", "Gemm", "MatMul"}.isdisjoint(optimized_ops(proto, tmp_path))


def test_four_bits_stay_integer_behind_a_clip(tmp_path: Path) -> None:
    """ReLU6 in front of a 4-bit grid would keep its convolution in float if it were left in the file."""
    ops = optimized_ops(lowered_proto(calibrated("onnxruntime", "w4a4")).proto, tmp_path)
    assert {"Conv", "FusedConv", "Gemm", "MatMul"}.isdisjoint(ops)


@pytest.mark.parametrize("config", ["w8a8-pow2", "w4a4-pow2"])
def test_a_power_of_two_covers_what_a_clip_lets_through(config: str, tmp_path: Path) -> None:
    """Its grid reaches beyond the clip: the codes are limited, and the convolution stays integer."""
    model = qatc.prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Conv2d(4, 4, 3)), data(), config=config)
    model.get_parameter("0.weight").data.mul_(20.0)
    qatc.calibrate(model, [data()], progress=False)
    lowered = lowered_proto(model)
    assert {"Conv", "FusedConv"}.isdisjoint(optimized_ops(lowered.proto, tmp_path))
    found = verify(model, lowered, {"input": data().numpy()})
    assert found.passed, found
    run = RUNTIMES["onnxruntime"].session(with_outputs(lowered.proto, code_tensors(lowered.proto)))
    name = next(n for n in code_tensors(lowered.proto).values() if n not in ("input_q", "2_q"))
    quantizer: Any = model.get_submodule(name)
    codes = run({"input": data().numpy()})
    highest = max(int(c.max()) for n, c in codes.items() if code_tensors(lowered.proto).get(n) == name)
    value = highest * float(quantizer.checked_grid(torch.empty(0)).scale)
    assert value == 6.0 if config == "w8a8-pow2" else value <= 6.0  # a learned step may begin lower


@pytest.mark.parametrize("opset", [13, 17, 19, 21])
@pytest.mark.parametrize("target", TARGETS)
def test_other_opsets(target: str, opset: int) -> None:
    model = calibrated(target, "w4a4")
    lowered = lowered_proto(model, opset=opset)
    assert [o.version for o in lowered.proto.opset_import] == [opset]
    assert verify(model, lowered, {"x": data().numpy()}).passed


def test_batch_is_dynamic() -> None:
    model = calibrated("onnxruntime", "w8a8-pow2")
    run = RUNTIMES["onnxruntime"].session(lowered_proto(model).proto)
    for n in (1, 5):
        with torch.no_grad():
            expected = model(data(n)).numpy()
        (found,) = run({"x": data(n).numpy()}).values()
        np.testing.assert_array_equal(found, expected)


def test_lowering_leaves_the_model_as_it_was() -> None:
    model = copy.deepcopy(calibrated("onnxruntime", "w4a4")).train()
    before = copy.deepcopy(model.state_dict())
    lowered_proto(model)
    assert model.training
    assert format_graph(model) == format_graph(calibrated("onnxruntime", "w4a4"))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_folding_keeps_the_weight_codes_of_the_simulation() -> None:
    """What the file holds is what eval mode multiplies with, BatchNorm folded in."""
    model = calibrated("onnxruntime", "w8a8")
    layer, bn = model.get_submodule("conv"), model.get_submodule("bn")
    weight, _ = layer.deployed(layer.fold(bn), model.get_submodule("x_q"))  # type: ignore[operator]
    file = {c.name: onnx.numpy_helper.to_array(c) for c in lowered_proto(model).proto.graph.initializer}
    dequantized = file["conv.weight_codes"] * file["conv.weight_scale"].reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(weight.detach().numpy(), dequantized)


def test_layers_that_a_rule_excludes_are_float_in_the_file() -> None:
    config = qatc.QConfig(rules=(qatc.Rule("body", quantize=False), qatc.Rule("head", quantize=False)))
    model = qatc.prepare(everything(), data(), config=config)
    qatc.calibrate(model, [data()], progress=False)
    lowered = lowered_proto(model)
    names = {c.name for c in lowered.proto.graph.initializer}
    assert {"body.weight", "head.weight", "conv.weight_codes"} <= names
    assert verify(model, lowered, {"x": data().numpy()}).passed


def test_a_sabotaged_file_fails_verification() -> None:
    model = calibrated("onnxruntime", "w8a8")
    lowered = lowered_proto(model)
    spoilt = next(c for c in lowered.proto.graph.initializer if c.name == "body.weight_codes")
    codes = onnx.numpy_helper.to_array(spoilt).copy()
    codes[0, 0] ^= 1
    spoilt.CopyFrom(onnx.numpy_helper.from_array(codes, spoilt.name))
    check = verify(model, lowered, {"x": data().numpy()})
    assert not check.passed
    worst = max(check.tensors, key=lambda t: t.differing)
    assert worst.name == "body_q"
    assert "NOT verified" in str(check)


class Dead(Everything):
    """A BatchNorm factor of zero, one that is tiny with a large shift, and one that is negative."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.bn.weight[:3] = torch.tensor([0.0, 1e-12, -0.7])
            self.bn.bias[:3] = torch.tensor([0.5, 3.0, 0.1])


@pytest.mark.parametrize("target", TARGETS)
def test_dead_and_negative_channels_survive(target: str) -> None:
    """A tiny weight scale would push the bias out of 32 bits."""
    torch.manual_seed(0)
    model = qatc.prepare(Dead().eval(), data(), target=target)
    qatc.calibrate(model, [data()], progress=False)
    assert verify(model, lowered_proto(model), {"x": data().numpy()}).passed


def test_errors_name_place_and_remedy(tmp_path: Path) -> None:
    fresh = qatc.prepare(everything(), data())
    with pytest.raises(CalibrationError, match=r"without a finite range\n  at: .*_q\n  try: run qatc.calibrate"):
        qatc.lower(fresh, tmp_path / "a.onnx")
    with pytest.raises(LoweringError, match="not a prepared model"):
        qatc.lower(everything(), tmp_path / "a.onnx")
    model = copy.deepcopy(calibrated("onnxruntime", "w8a8"))
    with pytest.raises(LoweringError, match=r"trained for onnxruntime; for tensorrt quantizers would move"):
        qatc.lower(model, tmp_path / "a.onnx", target="tensorrt")
    with pytest.raises(LoweringError, match=r"opset 12 does not fit onnxruntime\n  try: choose 13 to 21"):
        qatc.lower(model, tmp_path / "a.onnx", opset=12)
    with pytest.raises(LoweringError, match="cannot be written"):
        qatc.lower(model, tmp_path / "missing" / "a.onnx")
    with torch.no_grad():
        model.get_parameter("body.weight")[0, 0] = float("nan")
    with pytest.raises(CalibrationError, match=r"NaN or an infinity in the weights\n  at: body.weight"):
        qatc.lower(model, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        qatc.lower(calibrated("onnxruntime", "w8a8"), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_dumps_of_the_lowering(tmp_path: Path) -> None:
    qatc.lower(calibrated("onnxruntime", "w8a8"), tmp_path / "m.onnx", dump_dir=tmp_path / "dumps")
    names = sorted(p.name for p in (tmp_path / "dumps").glob("*.txt"))
    assert names == [
        "00-prepared.txt",
        "06-drop-inactive.txt",
        "07-take-clips-back.txt",
        "09-lower-modules.txt",
        "99-onnx.txt",
    ]
    assert "LoweredLayer" in (tmp_path / "dumps" / "09-lower-modules.txt").read_text()


def test_a_constant_may_have_the_name_of_a_step() -> None:
    """The exporter names its steps without regard to the constants; folding such a step refused."""
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, [2])
    constants = [onnx_ir.Value(name=name, const_value=onnx_ir.tensor([1.0, 2.0])) for name in ("view", "table")]
    doubled = onnx_ir.node("Add", [constants[1], constants[1]])
    doubled.outputs[0].name = "view"
    summed = onnx_ir.node("Add", [x, doubled.outputs[0]])
    result = onnx_ir.node("Add", [summed.outputs[0], constants[0]])
    nodes = [doubled, summed, result]
    graph = onnx_ir.Graph([x], result.outputs, nodes=nodes, initializers=constants, opset_imports={"": 20}, name="main")
    clean(model := onnx_ir.Model(graph, ir_version=10))
    (found,) = (
        RUNTIMES["onnxruntime-unoptimized"].session(onnx_ir.to_proto(model))({"x": np.zeros(2, np.float32)}).values()
    )
    assert found.tolist() == [3.0, 6.0]
    assert [node.op_type for node in model.graph] == ["Add", "Add"]
