"""Codes of 9 to 16 bits, from the configuration to the file that ONNX Runtime runs."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

import qatc
from qatc.errors import ConfigError, LoweringError
from qatc.lowering.lowered import lowered_proto
from qatc.lowering.verification import TensorCheck, Verification
from qatc.lowering.verify import verify
from tests.lowering.networks import data, everything
from tests.lowering.test_quantizers_lowered import Net
from tests.models import images, randomise
from tools.networks import LeNet


class Arranged(nn.Module):
    """What 8-bit codes are arranged, padded and limited for: a transposed convolution, a clip, zeros, a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1)
        self.clip, self.pad, self.pool = nn.Hardtanh(-0.5, 0.5), nn.ZeroPad2d(1), nn.MaxPool2d(2)
        self.behind = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.behind(self.pool(self.pad(self.clip(self.up(self.conv(x))))))


def prepared(model: nn.Module, x: Tensor, **layer: Any) -> qatc.PreparedModel:
    torch.manual_seed(0)
    gm = qatc.prepare(model, x, config=qatc.QConfig(qatc.LayerConfig(**layer)))
    qatc.calibrate(gm, [x], progress=False)
    return gm.eval()


NETWORKS: dict[str, tuple[Any, Tensor]] = {
    "lenet": (LeNet, images(6, 1, 32, 32)),
    "residual": (lambda: randomise(Net()), images()),
    "everything": (everything, data()),
    "arranged": (Arranged, images()),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layer", [
    {"activation_bits": 16},
    {"activation_bits": 11, "activation_quantizer": "lsq", "weight_quantizer": "lsq", "weight_bits": 4},
    {"weight_bits": 16},
], ids=["a16", "a11 w4, learned", "w16"])  # fmt: skip
def test_the_file_has_the_codes_of_the_simulation(name: str, layer: dict[str, Any]) -> None:
    make, x = NETWORKS[name]
    gm = prepared(make().eval(), x, **layer)
    lowered = lowered_proto(gm)
    check = verify(gm, lowered, {lowered.proto.graph.input[0].name: (0.9 * x).numpy()})
    assert check.passed, str(check)
    assert check.codes > 1000
    assert lowered.proto.opset_import[0].version == 21


def test_codes_are_kept_in_16_bits() -> None:
    gm = prepared(LeNet(), images(6, 1, 32, 32), activation_bits=12, weight_bits=9)
    proto = lowered_proto(gm).proto
    kinds = {c.name: c.data_type for c in proto.graph.initializer}
    assert kinds["conv1.weight_codes"] == TensorProto.INT16
    assert kinds["conv1.bias_codes"] == TensorProto.INT32
    assert {kinds[n.input[2]] for n in proto.graph.node if n.op_type == "QuantizeLinear"} == {TensorProto.UINT16}
    codes = next(onnx.numpy_helper.to_array(c) for c in proto.graph.initializer if c.name == "conv1.weight_codes")
    assert abs(codes).max() == 255


def test_an_opset_without_such_codes_is_refused(tmp_path: Path) -> None:
    gm = prepared(LeNet(), images(6, 1, 32, 32), activation_bits=16)
    with pytest.raises(LoweringError, match=r"opset 18 does not fit onnxruntime\n  try: choose 21 to 21 \(default 21"):
        qatc.lower(gm, tmp_path / "a.onnx", opset=18)


def test_a_target_without_such_codes_refuses_them_with_the_tensor() -> None:
    config = qatc.QConfig(rules=(qatc.Rule("fc1", activation_bits=16),))
    with pytest.raises(ConfigError, match=r"tensorrt has no codes of 16 bits\n  at: .*\n  try: ask for 8"):
        qatc.prepare(LeNet(), images(6, 1, 32, 32), "tensorrt", config)


def test_weights_too_wide_for_what_they_read_are_refused_with_the_layer() -> None:
    config = qatc.QConfig(rules=(qatc.Rule("fc1", activation_bits=16, weight_bits=9),))
    with pytest.raises(ConfigError, match=r"weights of 9 bits read activations of 16: (.|\n)*at: fc1"):
        qatc.prepare(LeNet(), images(6, 1, 32, 32), config=config)


def test_an_evaluation_gives_the_exact_sums() -> None:
    """In float32 they depend on the order: the sums here reach 2^33."""
    x = images(64, 512).abs()
    gm: Any = prepared(nn.Sequential(nn.Linear(512, 16)), x, activation_bits=16)
    layer, grid = gm.get_submodule("0"), gm.get_submodule("input_1_q" if hasattr(gm, "input_1_q") else "input_q")
    weights = layer.weight_quantizer
    with torch.no_grad():
        scale = weights.checked_grid(layer.weight).scale * grid.checked_grid(x).scale
        sums = (grid.codes(x) - grid.checked_grid(x).zero_point).double() @ weights.codes(layer.weight).double().T
        assert float(sums.abs().max()) > 2**24
        expected = (sums + torch.round(layer.bias / scale).double()) * scale
        assert torch.equal(gm(x), expected.float())


def test_wide_tensors_are_counted_apart_from_the_others() -> None:
    def check(narrow: int, wide: int) -> bool:
        tensors = (
            TensorCheck("n", 1_000_000, narrow, 1, 0, 0), TensorCheck("w", 1_000_000, wide, 1, 0, 0, bits=16),
        )  # fmt: skip
        return Verification(tensors, 40.0, 40.0, limit=1e-5, step_limit=1, exact=False).passed

    assert check(20, 2_712)  # 2,560 expected, and 3 times sqrt(2,560)
    assert not check(21, 0)
    assert not check(0, 2_713)
