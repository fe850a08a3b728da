"""The runtimes: each gives the named tensors of a file; OpenVINO says in which precision it runs each layer."""

import re

import numpy as np
import onnx
import pytest

from qatc.errors import ConfigError, VerificationError
from qatc.lowering import lowered_proto
from qatc.runtimes import RUNTIMES, Runtime, runtime_of
from qatc.runtimes.openvino import left_in_float, precisions
from tests.lowering.networks import calibrated, data


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    return lowered_proto(calibrated("tensorrt", "w8a8-pow2")).proto


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_session_gives_the_named_outputs(name: str, proto: onnx.ModelProto) -> None:
    model = calibrated("tensorrt", "w8a8-pow2")
    result = runtime_of(name).session(proto)({"x": data().numpy(), "not an input": np.zeros(1)})
    assert list(result) == ["output"]
    np.testing.assert_array_equal(result["output"], model(data()).detach().numpy())


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=list(RUNTIMES))
def test_a_runtime_says_its_version(runtime: Runtime) -> None:
    assert runtime.installed
    assert re.match(r"\d+\.\d+", runtime.version)


def test_an_unknown_runtime_is_an_error_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown runtime 'openvin'\n  try: did you mean 'openvino'\? runtimes: onnx"
    ):
        runtime_of("openvin")


def test_a_missing_runtime_says_how_to_install_it(proto: onnx.ModelProto) -> None:
    absent = Runtime("openvino", "", "no_such_package", RUNTIMES["openvino"].start, extra="openvino")
    assert not absent.installed
    with pytest.raises(VerificationError, match=r"openvino is not installed\n  try: pip install qatc\[openvino\]"):
        absent.session(proto)


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=list(RUNTIMES))
def test_a_file_that_a_runtime_refuses_is_one_clear_error(runtime: Runtime, proto: onnx.ModelProto) -> None:
    bad = onnx.ModelProto()
    bad.CopyFrom(proto)
    bad.graph.node[0].op_type = "NoSuchOp"
    with pytest.raises(VerificationError, match=f"{runtime.name} .* does not take the file"):
        runtime.session(bad)


def test_openvino_says_the_precision_of_each_layer(proto: onnx.ModelProto) -> None:
    layers = precisions(proto)
    weighted = {layer.kind: layer for layer in layers if layer.kind in ("Convolution", "FullyConnected")}
    assert weighted["Convolution"].precision in ("i8", "u8")
    assert weighted["FullyConnected"].precision == "i8"
    assert any("body/Conv" in name for layer in layers for name in layer.fused)
    assert left_in_float(layers) == []


def test_openvino_says_what_is_left_in_float(proto: onnx.ModelProto) -> None:
    """The first convolution reads the image itself."""
    raw = onnx.ModelProto()
    raw.CopyFrom(proto)
    conv = next(node for node in raw.graph.node if node.name == "conv/Conv")
    conv.input[0] = "x"
    assert [layer.kind for layer in left_in_float(precisions(raw))] == ["Convolution"]
