"""Files whose float part is float16, for strongly typed networks."""

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

import qatc
from qatc.errors import LoweringError
from qatc.lowering.lowered import Lowered, lowered_proto
from qatc.lowering.options import LoweringOptions
from qatc.lowering.verify import verify
from tests.lowering.networks import data, everything

FP16 = LoweringOptions(float_dtype="fp16")
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


@cache
def quantized(config: str = "w8a8") -> qatc.PreparedModel:
    """Return a calibrated model; shared between tests, so not to be changed."""
    return prepared(everything(), data(), config)


def prepared(model: nn.Module, x: Tensor, config: str = "w8a8") -> qatc.PreparedModel:
    gm = qatc.prepare(model, x, "tensorrt", config)
    qatc.calibrate(gm, [x], progress=False)
    return gm.eval()


def types(proto: onnx.ModelProto) -> dict[str, int]:
    values = (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    return {v.name: v.type.tensor_type.elem_type for v in values} | {
        c.name: c.data_type for c in proto.graph.initializer
    }


def floats(lowered: Lowered) -> set[str]:
    return {name for name, kind in types(lowered.proto).items() if kind == FLOAT}


@pytest.mark.parametrize("config", ["w8a8", "w8a8-pow2"])
@pytest.mark.parametrize("weights", ["int8", "float"])
@pytest.mark.parametrize("ends", ["fp32", "fp16"])
def test_the_file_runs_near_the_simulation(config: str, weights: str, ends: str) -> None:
    gm = quantized(config)
    options = LoweringOptions(weights=weights, float_dtype="fp16", io_dtype=ends)  # type: ignore[arg-type]
    lowered = lowered_proto(gm, options=options)
    check = verify(gm, lowered, {"x": data().numpy()})
    assert check.passed, str(check)
    assert not check.exact
    assert 0 < check.differing < 0.01 * check.codes
    assert check.sqnr > 25
    assert not [f for f in lowered.findings if f.severity == "error"]


def test_only_the_ends_and_the_scales_of_a_resize_stay_in_float32() -> None:
    lowered = lowered_proto(quantized(), options=FP16)
    assert lowered.proto.opset_import[0].version == 19
    resize = next(n for n in lowered.proto.graph.node if n.op_type == "Resize")
    ends = {v.name for v in (*lowered.proto.graph.input, *lowered.proto.graph.output)}
    assert floats(lowered) == {*ends, resize.input[2]}
    kinds = types(lowered.proto)
    for node in lowered.proto.graph.node:
        if node.op_type == "QuantizeLinear":
            assert kinds[node.input[0]] == kinds[node.input[1]] == HALF
        if node.op_type == "DequantizeLinear":
            assert kinds[node.input[1]] == kinds[node.output[0]] == HALF
    assert kinds["body.bias"] == HALF


def test_the_ends_follow_where_asked() -> None:
    lowered = lowered_proto(quantized(), options=LoweringOptions(float_dtype="fp16", io_dtype="fp16"))
    graph = lowered.proto.graph
    assert [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)] == [HALF, HALF]
    assert [v.name for v in (*graph.input, *graph.output)] == ["x", "output"]
    assert all(n.op_type != "Cast" for n in graph.node)


def test_float_weights_have_the_codes_of_integer_ones() -> None:
    """Weights are made anew on the rounded scale, so that Q finds the codes that were trained."""
    codes, halves = (
        {c.name: numpy_helper.to_array(c) for c in lowered_proto(quantized(), options=options).proto.graph.initializer}
        for options in (LoweringOptions(), LoweringOptions(weights="float", float_dtype="fp16"))
    )
    for layer, shape in (("body", (-1, 1, 1, 1)), ("head", (-1, 1))):
        scale = halves[f"{layer}.weight_scale"].reshape(shape)
        assert scale.dtype == np.float16
        assert np.array_equal(np.rint(halves[f"{layer}.weight"] / scale), codes[f"{layer}.weight_codes"])


class Small(nn.Module):
    """A layer whose weights are as small as asked, one output channel of zeros, and a constant."""

    def __init__(self, weight: float, constant: float) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.constant = constant
        with torch.no_grad():
            self.layer.weight.copy_(weight * torch.linspace(-1, 1, 12).view(3, 4))
            self.layer.weight[1] = 0
            self.layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x) * self.constant
        return y


def test_a_channel_of_zeros_has_a_scale_that_is_none() -> None:
    x = torch.linspace(-1, 1, 32).view(8, 4)
    lowered = lowered_proto(prepared(Small(1.0, 2.0), x), options=FP16)
    (scale,) = (numpy_helper.to_array(c) for c in lowered.proto.graph.initializer if c.name == "layer.weight_scale")
    assert scale[1] == np.finfo(np.float16).tiny
    assert (scale > 0).all()


@pytest.mark.parametrize(("weight", "constant", "said"), [
    (1e-5, 1.0, r"a scale of 7.*e-08 is less than float16 holds\n  at: layer.weight_scale"),
    (1.0, 1e5, r"a constant of 100000 is more than float16 holds \(65504\)\n  at: .*\n  try: .*--float-dtype fp32"),
])  # fmt: skip
def test_constants_that_float16_does_not_hold_are_refused(weight: float, constant: float, said: str) -> None:
    gm = prepared(Small(weight, constant), torch.linspace(-1, 1, 32).view(8, 4))
    lowered_proto(gm)
    with pytest.raises(LoweringError, match=said):
        lowered_proto(gm, options=FP16)


def test_what_onnx_has_in_float32_alone_stays_so_between_casts() -> None:
    """`Range` has no float16."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x)
            return y + torch.arange(x.shape[0], dtype=torch.float32).view(-1, 1) * 0.01

    x = torch.linspace(-1, 1, 32).view(8, 4)
    gm = prepared(Positions(), x)
    lowered = lowered_proto(gm, options=FP16)
    assert any(n.op_type == "Range" for n in lowered.proto.graph.node)
    assert verify(gm, lowered, {"x": x.numpy()}).passed


def test_a_target_without_float16_refuses_it() -> None:
    gm = qatc.prepare(everything(), data(), "onnxruntime")
    with pytest.raises(LoweringError, match=r"onnxruntime does not take floats as fp16\n  try: float_dtype: .* fp32"):
        lowered_proto(gm, options=FP16)


def test_an_opset_without_float16_scales_is_refused() -> None:
    with pytest.raises(LoweringError, match=r"opset 18 does not fit tensorrt\n  try: choose 19 to 21"):
        lowered_proto(quantized(), options=FP16, opset=18)
