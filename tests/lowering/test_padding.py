"""Zeros around an image, in the file: what the runtime makes of them."""

from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

import qatc
from qatc.lowering import lowered_proto, verify
from tests.lowering.networks import optimized_ops
from tests.models import conv, images, randomise
from tools.zoo_suites.classics_images import UNetTransposed


class Below(nn.Module):
    """Zeros around values below zero, in front of a pool whose result no integer op reads: as in BiT's stem."""

    def __init__(self, written: str) -> None:
        super().__init__()
        self.stem, self.norm, self.head, self.written = conv(3, 4), nn.GroupNorm(2, 4), conv(4, 4), written
        self.pad, self.pool = nn.ConstantPad2d(1, 0.0), nn.MaxPool2d(3, 2)

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x) - 9.0
        if self.written == "layer":
            y = self.pad(y)
        elif self.written == "function":
            y = F.pad(y, (1, 1, 1, 1))
        else:  # widths that the network computes
            y = F.pad(y, (1, y.shape[-1] // 8, 1, 1))
        return self.head(self.norm(self.pool(y)))


@pytest.mark.parametrize("written", ["layer", "function", "computed"])
def test_zeros_in_front_of_a_max_pool_count(written: str) -> None:
    """ONNX Runtime's PadFusion would make them the pool's own padding, which is left out of the maximum."""
    gm = qatc.prepare(randomise(Below(written)), images())
    qatc.calibrate(gm, [images(seed=1)], progress=False)
    check = verify(gm, lowered_proto(gm), {"x": images(8, 3, 8, 8, seed=2).numpy()})
    assert check.passed, str(check)
    assert check.sqnr > 40


class Around(nn.Module):
    """Zeros for a convolution, more on one side; for pools, of widths that are given, and that the network computes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.strided, self.head = conv(3, 4), nn.Conv2d(4, 4, 3, stride=2, padding=1), conv(4, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        z = F.relu(self.strided(F.pad(y, (0, 1, 0, 1))))
        largest = F.max_pool2d(F.pad(y, (1, 1, 1, 1)), 3, 2)
        mean = F.avg_pool2d(F.pad(y, (1, y.shape[-1] // 8, 1, 1)), 3, 2)
        return self.head(z[..., :4, :4] + largest + mean)


@pytest.mark.parametrize("config", ["w8a8", "w4a4-pow2"])
def test_zeros_are_padded_on_codes_or_by_the_convolution(config: str, tmp_path: Path) -> None:
    gm = qatc.prepare(randomise(Around()), images(), config=config)
    qatc.calibrate(gm, [images(seed=1)], progress=False)
    lowered = lowered_proto(gm)
    for runtime in ("onnxruntime", "onnxruntime-unoptimized"):
        check = verify(gm, lowered, {"x": images(8, 3, 8, 8, seed=2).numpy()}, runtime=runtime)
        assert check.passed, str(check)
    pads = {n.name: list(a.ints) for n in lowered.proto.graph.node for a in n.attribute if a.name == "pads"}
    assert pads["strided/Conv"] == [1, 1, 2, 2]
    ops = optimized_ops(lowered.proto, tmp_path)
    assert (ops["Pad"], ops["QuantizeLinear"], ops["DequantizeLinear"]) == (2, 1, 1)
    assert not {"Conv", "FusedConv"} & set(ops)


def test_a_border_cut_off_is_no_padding() -> None:
    config = qatc.QConfig(rules=(qatc.Rule("2", quantize=False),))
    model = nn.Sequential(conv(3, 4), nn.ZeroPad2d((1, -1, 0, 0)), conv(4, 4))
    gm = qatc.prepare(randomise(model), images(), config=config)
    qatc.calibrate(gm, [images(seed=1)], progress=False)
    lowered = lowered_proto(gm)
    assert "1/Pad" in {node.name for node in lowered.proto.graph.node}
    assert verify(gm, lowered, {"input": images(8, 3, 8, 8, seed=2).numpy()}).passed


def test_no_pair_is_repeated_where_the_sizes_leave_a_border_no_width() -> None:
    """A U-Net pads by the difference of two sizes: none where the size is even."""
    model = qatc.prepare(UNetTransposed(), images(2, 3, 16, 16))
    qatc.calibrate(model, [images(2, 3, 16, 16)], progress=False)
    lowered = lowered_proto(model)
    made = {name: node.op_type for node in lowered.proto.graph.node for name in node.output}
    read = [made.get(n.input[0]) for n in lowered.proto.graph.node if n.op_type == "QuantizeLinear"]
    assert read.count("Conv") > 0
    assert "DequantizeLinear" not in read
