"""Branches on `self.training` (trap 11): dropouts follow train() and eval(), others are a warning with the line."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qatc
from qatc.errors import QatcWarning
from qatc.trace import trace
from tests.models import conv, images, randomise
from tests.tracing.check_trace import check_trace, place


class Base(nn.Module):
    def __init__(self, p: float = 0.3) -> None:
        super().__init__()
        self.a, self.b, self.p = conv(3, 4), conv(4, 4), p


class Flag(Base):
    def forward(self, x: Tensor) -> Any:
        return self.b(F.dropout(self.a(x), self.p, self.training))


class Keywords(Base):
    def forward(self, x: Tensor) -> Any:
        return self.b(F.dropout2d(self.a(x), p=self.p, training=self.training))


class Branch(Base):
    def forward(self, x: Tensor) -> Any:
        x = self.a(x)
        if self.training:
            x = F.dropout(x, self.p)
        return self.b(x) + x


class BranchAndRate(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        if self.training and self.p > 0:
            y = F.dropout(y, p=self.p, training=True)
        return self.b(F.dropout(y, self.p if self.training else 0.0))


class Always(Base):
    def forward(self, x: Tensor) -> Any:
        return self.b(F.dropout(self.a(x), self.p, training=True))


class Attention(nn.Module):
    """A probability for training alone, by keyword or by position."""

    def __init__(self, keyword: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.p, self.keyword = nn.Linear(8, 24), nn.Linear(8, 8), 0.3, keyword

    def forward(self, x: Tensor) -> Any:
        q, k, v = self.qkv(x).chunk(3, -1)
        if self.keyword:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0.0)
        else:
            y = F.scaled_dot_product_attention(q, k, v, None, self.p * self.training)
        return self.out(y)


@pytest.mark.parametrize("kind", [Flag, Keywords, Branch, BranchAndRate])
def test_a_dropout_follows_the_mode(kind: type[nn.Module]) -> None:
    model = randomise(kind())
    gm = qatc.prepare(model, images(), verify=True)
    with qatc.float_mode(gm):
        assert_draws_in_training_alone(gm, images())


@pytest.mark.parametrize("keyword", [True, False])
def test_the_dropout_of_an_attention_follows_the_mode(keyword: bool) -> None:
    model, x = randomise(Attention(keyword)), images(2, 5, 8)
    assert_draws_in_training_alone(qatc.prepare(model, x, verify=True), x)


def assert_draws_in_training_alone(gm: nn.Module, x: Tensor) -> None:
    for training in (True, False, True):
        gm.train(training)
        first, second = gm(x), gm(x)
        assert torch.equal(first, second) is not training


def test_a_dropout_that_is_always_on_stays_on() -> None:
    gm = trace(randomise(Always()), images())
    assert not torch.equal(gm.eval()(images()), gm(images()))


class Noise(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        if self.training:
            y = y + 0.1 * torch.randn_like(y)
        return self.b(y)


class TwoHeads(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        if self.training:
            y = self.b(y)
            y = y + 1
        else:
            y = y.softmax(1)
        return y


def test_another_branch_of_training_is_a_warning_with_the_line() -> None:
    with pytest.warns(QatcWarning) as caught:
        gm = trace(randomise(Noise()), images())
    assert [str(w.message) for w in caught] == [
        f"{place(Noise, 'randn_like')} runs only in training: the prepared model does what the model does in eval mode"
    ]
    assert gm.eval()(images()).shape == (4, 4, 8, 8)


def test_both_sides_of_a_branch_are_named() -> None:
    with pytest.warns(QatcWarning) as caught:
        trace(randomise(TwoHeads()), images())
    messages = [str(w.message) for w in caught]
    assert any(m.startswith(f"{place(TwoHeads, 'self.b(y)')} runs only in training (in b)") for m in messages)
    assert any(m.startswith(f"{place(TwoHeads, 'softmax')} runs only in eval mode") for m in messages)


class Methods(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        if self.training:
            y = y.mul(2.0).tanh()
        return self.b(y)


def test_a_branch_of_methods_is_a_warning_too() -> None:
    with pytest.warns(QatcWarning, match=re.escape(f"{place(Methods, 'tanh')} runs only in training")):
        trace(randomise(Methods()), images())


def test_a_branch_that_does_the_same_on_another_line_is_no_warning() -> None:
    class Same(Base):
        def forward(self, x: Tensor) -> Any:
            if self.training:
                y = self.a(x)
                y = y.relu()
            else:
                y = self.a(x)
                y = y.relu()
            return self.b(y)

    check_trace(Same(), images())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_in_which_a_model_is_traced_does_not_matter(training: bool) -> None:
    model = randomise(nn.Sequential(Branch(), nn.BatchNorm2d(4))).train(training)
    gm = qatc.prepare(model, images(), verify=True)
    assert gm.training is training


def test_stochastic_depth_is_a_module_that_follows_the_mode() -> None:
    class DropPath(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = 0.5

        def forward(self, x: Tensor) -> Any:
            if self.p == 0.0 or not self.training:
                return x
            return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(1 - self.p) / (1 - self.p)

    class Block(Base):
        def __init__(self) -> None:
            super().__init__()
            self.drop = DropPath()

        def forward(self, x: Tensor) -> Any:
            y = self.a(x)
            return y + self.drop(self.b(y))

    gm = check_trace(Block(), images(8, 3, 8, 8))
    assert_draws_in_training_alone(gm, images(32, 3, 8, 8))
