"""What was simulated is what runs, behind every method that changes weights, biases or statistics."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import qatc
from qatc.lowering.lowered import lowered_proto
from qatc.lowering.verify import verify
from qatc.spec import BATCH_NORM_MODES
from tests.models import conv, images, randomise


class Inverted(nn.Module):
    """An input BatchNorm, an inverted residual with ReLU6, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.stem, self.bn0 = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.expand, self.bn1, self.relu6 = conv(4, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()
        self.depthwise, self.bn2 = conv(8, 8, groups=8, bias=False), nn.BatchNorm2d(8)
        self.project, self.pool, self.fc = conv(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Any:
        y = self.bn0(self.stem(self.norm(x)))
        y = self.project(self.relu6(self.bn2(self.depthwise(self.relu6(self.bn1(self.expand(y))))))) + y
        return self.fc(self.pool(y).flatten(1))


@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
def test_codes_of_the_file_are_those_of_the_simulation(mode: str, tmp_path: Path) -> None:
    config = qatc.QConfig(qatc.LayerConfig(per_channel=False), pow2=True, batch_norm=mode)
    gm = qatc.prepare(randomise(Inverted()), images(), config=config)
    assert qatc.equalize(gm, replace_relu6=True).chains
    qatc.clip_weights(gm, magnitude=0.0, ratio=2.0)
    batches = [images(seed=1), images(seed=2)]
    qatc.calibrate(gm, batches, progress=False)
    qatc.correct_biases(gm, batches, progress=False)
    gm.train()
    (gm(images(seed=3)) - 1).square().mean().backward()
    if mode != "folded":
        qatc.reestimate_bn(gm, batches, progress=False)
    qatc.save(gm.eval(), tmp_path / "model.pt")
    loaded = qatc.load(tmp_path / "model.pt")
    assert verify(loaded, lowered_proto(loaded), {"x": images(8, 3, 8, 8, seed=4).numpy()}).passed
