"""Where the target qnn has its grids, network by network, and that the files compute what was simulated."""

from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.lowering import lowered_proto, verify
from qatc.quantizers import Given, Quantizer
from tests.models import images
from tests.targets.networks import check_target, placed

PLACEMENTS = [
    (
        "residuals",
        snapshot("""\
op      kind  weight  inputs       output   why float
-----------------------------------------------------
stem    Conv  s8/ch0  u8/asym      u8
a1      Conv  s8/ch0  u8           u8
a2      Conv  s8/ch0  u8           u8/asym
add     Add           u8/asym, u8
relu_2  Relu          float        u8
b1      Conv  s8/ch0  u8           u8
b2      Conv  s8/ch0  u8           u8/asym
down    Conv  s8/ch0  u8           u8/asym
add_1   Add           u8/asym
relu_4  Relu          float        u8
10 of 10 ops quantized (6 with weights)\
"""),
    ),
    (
        "branches",
        snapshot("""\
op       kind               weight  inputs       output   why float
-------------------------------------------------------------------
a        Conv               s8/ch0  u8/asym      u8
b        Conv               s8/ch0  u8/asym      u8/asym
concat   Concat                     u8, u8/asym  u8/asym
pool     GlobalAveragePool          u8/asym      u8/asym
squeeze  Conv               s8/ch0  u8/asym      u8
excite   Conv               s8/ch0  u8           u8/asym
sigmoid  Sigmoid                    u8/asym      u8
mul      Mul                        u8/asym, u8  u8/asym
8 of 8 ops quantized (4 with weights)\
"""),
    ),
    (
        "activations",
        snapshot("""\
op         kind         weight  inputs       output   why float
---------------------------------------------------------------
0          Conv         s8/ch0  u8/asym      u8/asym
1_sigmoid  Sigmoid              u8/asym      u8
1          Mul                  u8/asym, u8  u8/asym
2          Conv         s8/ch0  u8/asym
3          HardSwish            float        u8/asym
4          Conv         s8/ch0  u8/asym
5          LeakyRelu            float        u8/asym
6          Conv         s8/ch0  u8/asym      u8/asym
7          Gelu                 u8/asym      u8/asym
8          Conv         s8/ch0  u8/asym      u8/asym
9          Tanh                 u8/asym      u8/asym
10         Conv         s8/ch0  u8/asym      u8/asym
11         HardSigmoid          u8/asym      u8
13 of 13 ops quantized (6 with weights)\
"""),
    ),
    (
        "convolutions",
        snapshot("""\
op  kind           weight  inputs   output   why float
------------------------------------------------------
0   Conv           s8/ch0  u8/asym  u8
2   Conv           s8/ch0  u8       u8
5   ConvTranspose  s8/ch1  u8       u8
7   Reshape                u8       u8
8   Gemm           s8/ch0  u8       u8/asym
5 of 5 ops quantized (4 with weights)\
"""),
    ),
    (
        "attention",
        snapshot("""\
op           kind                weight  inputs       output   why float
------------------------------------------------------------------------
embed        Conv                s8/ch0  u8/asym      u8/asym
flatten      Reshape                     u8/asym      u8/asym
transpose    Transpose                   u8/asym      u8/asym
norm         LayerNormalization          u8/asym      u8/asym
q            Gemm                s8/ch0  u8/asym      u8/asym
k            Gemm                s8/ch0  u8/asym      u8/asym
transpose_1  Transpose                   u8/asym      u8/asym
matmul       MatMul                      u8/asym      u8/asym
softmax      Softmax                     u8/asym      u8
v            Gemm                s8/ch0  u8/asym      u8/asym
matmul_1     MatMul                      u8, u8/asym  u8/asym
out          Gemm                s8/ch0  u8/asym      u8/asym
add          Add                         u8/asym      u8/asym
13 of 13 ops quantized (5 with weights)\
"""),
    ),
    (
        "sizes",
        snapshot("""\
op             kind                weight  inputs   output   why float
----------------------------------------------------------------------
first          Conv                s8/ch0  u8/asym  u8/asym
max_pool2d     MaxPool                     u8/asym  u8/asym
bn             BatchNormalization  s8/ch0  u8/asym  u8
interpolate    Resize-nearest              u8       u8
second         Conv                s8/ch0  u8       u8/asym
interpolate_1  Resize-linear               u8/asym  u8/asym
avg_pool2d     AveragePool                 u8/asym  u8/asym
slice          Slice                       u8/asym  u8/asym
pad            Pad                         u8/asym
third          Conv                s8/ch0  u8/asym  u8/asym
mean           ReduceMean                  u8/asym  u8/asym
11 of 11 ops quantized (4 with weights)\
"""),
    ),
]


@pytest.mark.parametrize(("name", "expect"), PLACEMENTS, ids=[name for name, _ in PLACEMENTS])
def test_placement(name: str, expect: str) -> None:
    check_target("qnn", name, expect)


@pytest.mark.parametrize(
    ("bits", "config", "sigmoid", "tanh", "softmax"),
    [
        (8, False, (1 / 255, 0), (2 / 255, 128), (1 / 255, 0)),
        (8, True, (1 / 256, 0), (1 / 128, 128), (1 / 256, 0)),
        (16, False, (1 / 65536, 0), (1 / 32768, 32768), (1 / 65535, 0)),
        (16, True, (1 / 65536, 0), (1 / 32768, 32768), (1 / 65536, 0)),
        (4, False, None, None, None),
    ],
)
def test_ops_of_a_bounded_range_have_the_devices_grid(
    bits: int, config: bool, sigmoid: object, tanh: object, softmax: object
) -> None:
    layers = [nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 4, 1), nn.Tanh(), nn.Conv2d(4, 4, 1), nn.Softmax(1)]
    layer = qatc.LayerConfig(activation_bits=bits, activation_quantizer="lsq")
    gm = qatc.prepare(nn.Sequential(*layers), images(), "qnn", qatc.QConfig(layer, pow2=config))
    qatc.calibrate(gm, [images()], progress=False)
    for name, wanted in (("1_q", sigmoid), ("3_q", tanh), ("5_q", softmax)):
        quantizer = gm.get_submodule(name)
        assert isinstance(quantizer, Quantizer)
        assert isinstance(quantizer, Given) is (wanted is not None)
        if wanted is not None:
            grid = quantizer.checked_grid(torch.empty(0))
            assert (float(grid.scale), float(grid.zero_point)) == pytest.approx(wanted)
    check = verify(gm, lowered_proto(gm), {"input": images(seed=1).numpy()})
    assert check.passed, str(check)


def test_a_given_grid_moves_neither_in_training_nor_by_saving(tmp_path: Path) -> None:
    gm = placed("activations", "qnn")
    before = gm.get_submodule("9_q")(torch.linspace(-1, 1, 50))
    optimizer = torch.optim.SGD(gm.parameters(), 0.01)
    schedule = qatc.Schedule(record=1, delay=2, clamp=3).start(gm, optimizer, steps_per_epoch=5, epochs=1)
    for seed in range(5):
        gm.train()(images(seed=seed)).sum().backward()
        optimizer.step()
        schedule.step()
    assert isinstance(quantizer := gm.eval().get_submodule("9_q"), Given)
    assert quantizer.quantizes
    qatc.save(gm, tmp_path / "m.pt")
    for model in (gm, qatc.load(tmp_path / "m.pt")):
        quantizer = model.get_submodule("9_q")
        assert isinstance(quantizer, Given)
        assert (quantizer.scale, quantizer.zero_point) == (2 / 255, 128)
    fresh = placed("activations", "qnn").get_submodule("9_q")
    torch.testing.assert_close(fresh(torch.linspace(-1, 1, 50)), before, rtol=0, atol=0)


def test_what_is_fused_behind_a_convolution_has_no_grid_in_front() -> None:
    for act, fused in ((nn.LeakyReLU(), True), (nn.PReLU(), True), (nn.Hardswish(), True), (nn.ELU(), False)):
        gm = qatc.prepare(nn.Sequential(nn.Conv2d(3, 4, 1), act), images(), "qnn")
        assert ("0_q" not in dict(gm.named_modules())) is fused
        assert "1_q" in dict(gm.named_modules())
        assert "float" not in {row.reason for row in gm.report.rows}


def test_zeros_around_an_image_are_padded_as_values() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 4, 1), nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.pool(F.pad(F.relu(self.conv(x)), (1, 1, 1, 1)))
            return y

    gm = qatc.prepare(Padded(), images(), "qnn")
    qatc.calibrate(gm, [images()], progress=False)
    lowered = lowered_proto(gm)
    makers = {output: node.op_type for node in lowered.proto.graph.node for output in node.output}
    pad = next(node for node in lowered.proto.graph.node if node.op_type == "Pad")
    assert makers[pad.input[0]] == "DequantizeLinear"
    assert verify(gm, lowered, {"x": images(seed=1).numpy()}).passed


def test_a_network_that_ends_with_data_movement_has_the_grid_behind_that_too() -> None:
    gm = qatc.prepare(nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.Flatten()), images(), "qnn")
    qatc.calibrate(gm, [images()], progress=False)
    lowered = lowered_proto(gm)
    ops = [node.op_type for node in lowered.proto.graph.node]
    assert ops[-6:] == [
        "MaxPool", "QuantizeLinear", "DequantizeLinear", "Reshape", "QuantizeLinear", "DequantizeLinear",
    ]  # fmt: skip
    assert verify(gm, lowered, {"input": images(seed=1).numpy()}).passed
    assert [node.op_type for node in _lowered_for_onnxruntime().graph.node][-2:] == ["MaxPool", "Reshape"]


def _lowered_for_onnxruntime() -> onnx.ModelProto:
    gm = qatc.prepare(nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.Flatten()), images())
    qatc.calibrate(gm, [images()], progress=False)
    return lowered_proto(gm).proto
