"""Clips that a power of two reaches beyond, where the grid stands at several places."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qatc
from qatc.lowering import lower, verify
from tests.models import conv, images, randomise
from tools.measure import left_in_float


class Upsampled(nn.Module):
    """A ReLU6 whose grid stands behind a resize once more."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = conv(3, 8), conv(8, 4)

    def forward(self, x: Tensor) -> Any:
        return self.head(F.interpolate(F.relu6(self.conv(x)), scale_factor=2.0))


def test_a_clip_whose_grid_stands_twice_limits_codes_and_leaves_the_layer_in_integers(tmp_path: Path) -> None:
    model = randomise(Upsampled())
    with torch.no_grad():
        model.conv.weight.mul_(20)  # type: ignore[union-attr, operator]  # so that 6 is reached
    prepared = qatc.prepare(model, images(4, 3, 8, 8), config="w8a8-pow2")
    qatc.calibrate(prepared, [images(4, 3, 8, 8)], progress=False)
    lowered = lower(prepared.eval(), tmp_path / "m.onnx")
    assert left_in_float(tmp_path / "m.onnx").total() == 0
    assert not lowered.findings
    check = verify(prepared, lowered, {"x": images(4, 3, 8, 8, seed=1).numpy()})
    assert (check.differing, check.differing_end_to_end) == (0, 0)
