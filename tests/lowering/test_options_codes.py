"""Weights as codes or as floats, and codes of fewer than 8 bits in each form that a target takes."""

from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

import qatc
from qatc.errors import LoweringError
from qatc.lowering.lowered import Lowered, lowered_proto
from qatc.lowering.options import LoweringOptions
from qatc.lowering.verify import verify
from qatc.runtimes import RUNTIMES
from qatc.targets import TARGETS, Target
from tests.lowering.networks import data, everything
from tests.lowering.test_wide_codes import Arranged
from tests.models import images
from tools.networks import LeNet

ONNXRUNTIME = TARGETS["onnxruntime"]
# A runtime that also has activations of ONNX's 4-bit and 2-bit types; ONNX Runtime runs them as they are written.
NATIVE = replace(
    ONNXRUNTIME,
    name="native",
    file=replace(
        ONNXRUNTIME.file, sub_byte=("native",), native=frozenset({"weights", "activations"}), opset=(21, 25, 21)
    ),
    verify=replace(ONNXRUNTIME.verify, runtimes=("onnxruntime-unoptimized",)),
)
MIXED = qatc.QConfig(
    default=qatc.LayerConfig(weight_bits=4, activation_bits=4),
    pow2=True,
    rules=(
        qatc.Rule("conv", weight_bits=2, activation_bits=8), qatc.Rule("body", weight_bits=3, activation_bits=5),
        qatc.Rule("depthwise", weight_bits=7, activation_bits=2), qatc.Rule("head", weight_bits=8, activation_bits=6),
    ),
)  # fmt: skip


class Small(nn.Module):
    """A layer of each kind that takes its weight otherwise, and an add."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.body, self.fc = nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        z = self.body(F.max_pool2d(y + self.second(y), 4).flatten(2).transpose(1, 2))
        out: Tensor = self.fc(z.mean(1))
        return out


@cache
def quantized(target: str, bits: int | str) -> qatc.PreparedModel:
    """Return a calibrated model; shared between tests, so not to be changed."""
    torch.manual_seed(0)
    config = MIXED if isinstance(bits, str) else qatc.QConfig(
        default=qatc.LayerConfig(weight_bits=bits, activation_bits=bits), pow2=True
    )  # fmt: skip
    network = everything() if bits in ("mixed", 4) else Small().eval()
    model = qatc.prepare(network, data(), NATIVE if target == "native" else target, config)
    qatc.calibrate(model, [data()], progress=False)
    return model.eval()


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    (found,) = RUNTIMES["onnxruntime-unoptimized"].session(proto)({"x": x}).values()
    return found


def types(lowered: Lowered) -> dict[str, int]:
    graph = lowered.proto.graph
    return {c.name: c.data_type for c in graph.initializer} | {
        v.name: v.type.tensor_type.elem_type for v in graph.value_info
    }


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8, "mixed"])
@pytest.mark.parametrize(
    ("target", "form"),
    [(name, form) for name, target in TARGETS.items() for form in target.file.sub_byte] + [("native", "native")],
)
def test_every_number_of_bits_has_the_codes_of_the_simulation(target: str, form: str, bits: int | str) -> None:
    gm = quantized(target, bits)
    lowered = lowered_proto(gm, options=LoweringOptions(sub_byte=form))  # type: ignore[arg-type]
    check = verify(gm, lowered, {"x": data(4).numpy()})
    assert check.differing_end_to_end == 0, str(check)
    assert check.passed
    assert check.codes > 10_000


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", [4, 8])
def test_float_weights_run_as_integer_ones(target: str, bits: int) -> None:
    gm = quantized(target, bits)
    files = {form: lowered_proto(gm, options=LoweringOptions(weights=form)) for form in ("int8", "float")}
    outputs = [run(lowered.proto, data().numpy()) for lowered in files.values()]
    assert np.array_equal(outputs[0], outputs[1])
    check = verify(gm, files["float"], {"x": data(4).numpy()})
    assert check.differing == 0, str(check)
    kinds = types(files["float"])
    assert kinds["body.weight"] == TensorProto.FLOAT
    assert "body.weight_codes" not in kinds
    written = [n.op_type for n in files["float"].proto.graph.node if n.name.startswith("body/")]
    assert written[:2] == ["QuantizeLinear", "DequantizeLinear"]


def test_the_quantized_weight_of_a_float_file_is_the_code() -> None:
    gm = quantized("onnxruntime", 8)
    codes, floats = (
        {c.name: numpy_helper.to_array(c) for c in lowered_proto(gm, options=options).proto.graph.initializer}
        for options in (LoweringOptions(), LoweringOptions(weights="float"))
    )
    scale = floats["second.weight_scale"].reshape(-1, 1, 1, 1)
    assert np.array_equal(np.rint(floats["second.weight"] / scale), codes["second.weight_codes"])


@pytest.mark.parametrize(("bits", "opset", "weight", "activation"), [
    (4, 21, TensorProto.INT4, TensorProto.UINT4),
    (3, 21, TensorProto.INT4, TensorProto.UINT4),
    (2, 21, TensorProto.INT4, TensorProto.UINT4),
    (2, 25, TensorProto.INT2, TensorProto.UINT2),
    (5, 21, TensorProto.INT8, TensorProto.UINT8),
])  # fmt: skip
def test_native_codes_are_of_the_narrowest_type(bits: int, opset: int, weight: int, activation: int) -> None:
    gm = quantized("native", bits)
    lowered = lowered_proto(gm, opset=opset)
    kinds = types(lowered)
    assert kinds["body.weight_codes"] == kinds["body.weight_zero_point"] == weight
    assert {kinds[n.output[0]] for n in lowered.proto.graph.node if n.op_type == "QuantizeLinear"} == {activation}
    assert verify(gm, lowered, {"x": data(4).numpy()}).differing == 0


def test_native_weights_halve_the_file_s_codes() -> None:
    """ONNX Runtime's activations stay in 8 bits: it cannot load all files with 4-bit ones."""
    gm = quantized("onnxruntime", 4)
    lowered = lowered_proto(gm, options=LoweringOptions(sub_byte="native"))
    (codes,) = (c for c in lowered.proto.graph.initializer if c.name == "body.weight_codes")
    assert len(codes.raw_data) == 16 * 16 * 9 // 2
    kinds = types(lowered)
    assert {kinds[n.output[0]] for n in lowered.proto.graph.node if n.op_type == "QuantizeLinear"} == {
        TensorProto.UINT8
    }


def test_codes_that_are_moved_in_8_bits_stay_there() -> None:
    """Nothing pads 4-bit codes, or puts them side by side."""
    x = images()
    config = qatc.QConfig(default=qatc.LayerConfig(weight_bits=4, activation_bits=4))
    gm = qatc.prepare(Arranged().eval(), x, NATIVE, config)
    qatc.calibrate(gm, [x], progress=False)
    check = verify(gm.eval(), lowered_proto(gm), {"x": x.numpy()})
    assert check.differing == 0, str(check)


def test_a_clip_says_how_many_bits_there_are() -> None:
    gm = quantized("onnxruntime", 3)
    graph = lowered_proto(gm, options=LoweringOptions(sub_byte="qcdq")).proto.graph
    values = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    (conv,) = (n for n in graph.node if n.name == "second/Conv")
    ends = []
    for name in conv.input[:2]:
        clip = made[made[name].input[0]]
        assert clip.op_type == "Clip"
        ends.append([int(values[end]) for end in clip.input[1:]])
    assert ends == [[0, 7], [-3, 3]]


@pytest.mark.parametrize("form", ["native", "qcdq"])
def test_a_form_that_a_target_does_not_take_is_refused(form: str) -> None:
    with pytest.raises(
        LoweringError,
        match=rf"tensorrt does not take codes of fewer than 8 bits as {form}\n  try: sub_byte: it takes widen",
    ):
        lowered_proto(quantized("tensorrt", 8), options=LoweringOptions(sub_byte=form))  # type: ignore[arg-type]


def test_native_codes_ask_for_an_opset_that_has_them() -> None:
    with pytest.raises(LoweringError, match=r"opset 18 does not fit onnxruntime\n  try: choose 21 to 21"):
        lowered_proto(quantized("onnxruntime", 4), options=LoweringOptions(sub_byte="native"), opset=18)


@pytest.mark.parametrize("wrong", [
    {"weights": "int4"}, {"sub_byte": "wide"}, {"float_dtype": "bf16"}, {"io_dtype": "fp16"}, {"batch": 0},
    {"batch": True}, {"dynamic": {"x": (0,)}}, {"dynamic": {"x": ()}},
])  # fmt: skip
def test_options_that_are_none_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(LoweringError, match=next(iter(wrong))):
        LoweringOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TARGETS)
def test_wide_activations_are_lowered_where_the_target_has_them(name: str) -> None:
    target: Target = TARGETS[name]
    config = qatc.QConfig(rules=(qatc.Rule("conv2", activation_bits=16),))
    x = images(4, 1, 32, 32)
    if target.most_bits < 16:
        with pytest.raises(qatc.QatcError, match=rf"{name} has no codes of 16 bits\n  at: .*\n  try: ask for"):
            qatc.prepare(LeNet(), x, name, config)
        return
    gm = qatc.prepare(LeNet(), x, name, config)
    qatc.calibrate(gm, [x], progress=False)
    for options in (LoweringOptions(), LoweringOptions(weights="float")):
        lowered = lowered_proto(gm.eval(), options=options)
        check = verify(gm, lowered, {lowered.proto.graph.input[0].name: x.numpy()})
        assert check.passed, str(check)
        assert TensorProto.UINT16 in types(lowered).values()
