"""What the network gives in float stays so, whatever else reads it."""

from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

import qatc
from qatc.lowering import lowered_proto, verify
from qatc.runtimes import RUNTIMES
from tests.models import images, randomise


class Pooled(nn.Module):
    """As Swin of transformers: features and their mean, the features moved in front of it."""

    def __init__(self, moves: str) -> None:
        super().__init__()
        self.moves, self.fc, self.norm, self.pool = moves, nn.Linear(8, 8), nn.LayerNorm(8), nn.AdaptiveAvgPool1d(1)

    def forward(self, x: Tensor) -> Any:
        y = self.norm(self.fc(x))
        if self.moves == "transpose":
            moved = y.transpose(1, 2)
        elif self.moves == "twice":
            moved = y.transpose(1, 2).flip(2)
        else:
            moved = y[:, 1:].transpose(1, 2)
        return y, self.pool(moved).flatten(1)


@pytest.mark.parametrize("moves", ["transpose", "twice", "slice"])
@pytest.mark.parametrize("config", ["w8a8", "w8a8-pow2"])
def test_an_output_whose_moved_values_are_quantized_is_not(moves: str, config: str) -> None:
    model = qatc.prepare(randomise(Pooled(moves)), images(4, 6, 8), config=config)
    qatc.calibrate(model, [images(4, 6, 8)], progress=False)
    lowered, x = lowered_proto(model.eval()), images(4, 6, 8, seed=1)
    name = lowered.proto.graph.input[0].name
    found = next(iter(RUNTIMES["onnxruntime"].session(lowered.proto)({name: x.numpy()}).values()))
    # float32 of two libraries: some units of the last place; a grid of 8 bits would be a hundredth off
    np.testing.assert_allclose(found, model(x)[0].detach().numpy(), atol=1e-4)
    check = verify(model, lowered, {name: x.numpy()})
    assert check.passed
    assert check.sqnr_per_op > 100
