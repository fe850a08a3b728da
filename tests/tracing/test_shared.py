"""Modules and weights that stand at several places."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qatc
from tests.models import conv, images, randomise
from tests.tracing.check_trace import check_trace, targets


def test_tied_weights_stay_one_parameter() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.fc, self.out = nn.Embedding(12, 6), nn.Linear(6, 6), nn.Linear(6, 12, bias=False)
            self.out.weight = self.embedding.weight

        def forward(self, ids: Tensor) -> Any:
            return self.out(self.fc(self.embedding(ids)).relu())

    ids = torch.arange(8).view(2, 4)
    gm = check_trace(Tied(), ids)
    assert gm.out.weight is gm.embedding.weight  # type: ignore[union-attr]
    gm = qatc.prepare(randomise(Tied()), ids, verify=True)
    assert len({id(p) for p in gm.parameters() if p.shape == (12, 6)}) == 1


class TwoNames(nn.Module):
    """One module under two names, and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3, 3)
        self.second = self.first
        self.all = nn.ModuleList([self.first, conv(3, 4)])

    def forward(self, x: Tensor) -> Any:
        y = self.second(self.first(x))
        for layer in self.all:
            y = layer(y)
        return y


def test_a_module_under_two_names_is_one_module() -> None:
    gm = check_trace(TwoNames(), images())
    assert len(list(gm.parameters())) == 4
    qatc.prepare(randomise(TwoNames()), images(), verify=True)


class Branches(nn.Module):
    """A block called twice in one branch and once in the other."""

    def __init__(self, deep: bool) -> None:
        super().__init__()
        self.stem, self.block, self.deep = conv(3, 4), nn.Sequential(conv(4, 4), nn.BatchNorm2d(4), nn.ReLU()), deep

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        a = self.block(self.block(y))
        return a + (self.block(y) if self.deep else y), self.block[0](a) if x.shape[-1] > 4 else a


@pytest.mark.parametrize("deep", [True, False])
def test_a_block_called_a_different_number_of_times_in_branches(deep: bool) -> None:
    gm = check_trace(Branches(deep), images())
    assert targets(gm).count("block.0") == 3 + deep
    qatc.prepare(randomise(Branches(deep)), images(), verify=True)
