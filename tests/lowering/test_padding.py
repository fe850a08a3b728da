"""Zeros around an image, in the file: what the runtime makes of them."""

from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

import qatc
from qatc.lowering import lowered_proto, verify
from tests.models import conv, images, randomise


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
