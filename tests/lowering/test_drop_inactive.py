"""What does nothing to the sizes at hand, between two grids."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.lowering import lowered_proto, verify
from tests.models import images, randomise


class OnePosition(nn.Module):
    """The mean over all positions, of which there is one; its result has a range of its own while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.head = nn.Conv2d(3, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.pool(torch.relu(self.conv(x))).flatten(1))


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt", "openvino", "tidl", "tidl-tda4vm", "qnn"])
@pytest.mark.parametrize("config", ["w8a8", "w8a8-pow2"])
def test_a_pool_of_one_position_stays_between_two_grids(target: str, config: str) -> None:
    model = qatc.prepare(randomise(OnePosition()), images(4, 3, 8, 8), target, config)
    qatc.calibrate(model, [images(4, 3, 8, 8)], progress=False)
    model.train()(images(4, 3, 8, 8, seed=1) * 1.3)  # the two averages of one tensor's extremes may part
    lowered = lowered_proto(model.eval())
    ops = [node.op_type for node in lowered.proto.graph.node]
    assert ops.count("GlobalAveragePool") == 1
    assert not [finding for finding in lowered.findings if finding.severity == "error"]
    assert verify(model, lowered, {"x": images(4, 3, 8, 8, seed=2).numpy()}).passed
