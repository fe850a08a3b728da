"""Every quantizer from prepare to the file: calibrated, trained a step, saved, loaded, lowered, verified."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.lowering.lowered import lowered_proto
from qatc.lowering.verify import verify
from qatc.quantizers import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS
from qatc.spec import Pow2
from tests.models import conv, images, randomise


class Net(nn.Module):
    """A folded BatchNorm, a bias, a residual, ReLU6, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = conv(3, 8, bias=False), nn.BatchNorm2d(8)
        self.body, self.pool, self.fc = conv(8, 8), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)
        self.relu, self.relu6 = nn.ReLU(), nn.ReLU6()

    def forward(self, x: Tensor) -> Any:
        y = self.relu(self.bn(self.stem(x)))
        return self.fc(self.pool(self.relu6(self.body(y) + y)).flatten(1))


WIDTHS = {"binary": 1, "ternary": 2}


def through(config: qatc.QConfig, target: str, folder: Path) -> None:
    """Take the net all the way; whatever learns moves in its training step."""
    gm = qatc.prepare(randomise(Net()), images(), target, config)
    qatc.calibrate(gm, [images(seed=1), images(seed=2)], progress=False)
    gm.train()
    optimizer = torch.optim.SGD(qatc.param_groups(gm, lr=0.01))
    before = {name: p.detach().clone() for name, p in gm.named_parameters()}
    (gm(images(seed=3)) - 1).square().mean().backward()
    optimizer.step()
    still = [name for name, p in gm.named_parameters() if torch.equal(p, before[name])]
    assert not [name for name in still if "quantizer" in name], still
    gm.eval()
    y = gm(images(seed=4))
    qatc.save(gm, folder / "model.pt")
    loaded = qatc.load(folder / "model.pt")
    assert torch.equal(loaded(images(seed=4)), y)
    assert verify(loaded, lowered_proto(loaded), {"x": images(8, 3, 8, 8, seed=5).numpy()}).passed


@pytest.mark.parametrize("pow2", [False, True], ids=["free", "pow2"])
@pytest.mark.parametrize("name", ACTIVATION_QUANTIZERS)
def test_activations(name: str, pow2: bool, tmp_path: Path) -> None:
    through(qatc.QConfig(qatc.LayerConfig(activation_quantizer=name), pow2=pow2), "onnxruntime", tmp_path)


@pytest.mark.parametrize("rounding", ["down", "round"])
def test_powers_of_two_rounded_otherwise(rounding: Pow2, tmp_path: Path) -> None:
    for name in ("tracked", "lsq"):
        layer = qatc.LayerConfig(weight_quantizer=name, activation_quantizer=name)
        through(qatc.QConfig(layer, pow2=rounding), "onnxruntime", tmp_path)


@pytest.mark.parametrize("pow2", [False, True], ids=["free", "pow2"])
@pytest.mark.parametrize("name", WEIGHT_QUANTIZERS)
def test_weights(name: str, pow2: bool, tmp_path: Path) -> None:
    layer = qatc.LayerConfig(weight_quantizer=name, weight_bits=WIDTHS.get(name, 4))
    through(qatc.QConfig(layer, pow2=pow2), "onnxruntime", tmp_path)
