"""The batch stays open, whatever the example's is; where the model's code fixes it, that is said."""

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qatc.errors import QatcWarning
from qatc.ir import notes, tensor_type
from qatc.trace import trace
from tests.models import conv, images, randomise
from tests.tracing.check_trace import check_outputs, check_trace, place


class Grid(nn.Module):
    """Sizes of the batch in factories, expand, reshape, arithmetic and padding (trap 4: ops that are compositions)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.token = conv(5, 4), nn.Parameter(torch.zeros(1, 1, 4))

    def forward(self, x: Tensor) -> Any:
        b, _, h, w = x.shape
        rows = torch.arange(h, dtype=x.dtype).view(1, 1, h, 1).expand(b, 1, h, w)
        columns = torch.arange(0, w, dtype=x.dtype).repeat(b, 1, h, 1)
        y = self.conv(F.pad(torch.cat([x, rows, columns], 1), (1, 1, 1, 1), mode="reflect"))
        y = y.flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(b, -1, -1), y], 1)
        y = F.pad(y, (0, 1, 0, 1)) / b
        return y.reshape(b * y.shape[1], -1).view(b, -1), torch.zeros(b, 2) + y.sum()


@pytest.mark.parametrize("batch", [1, 2, 3, 5])
def test_the_batch_is_open_whatever_that_of_the_example(batch: int) -> None:
    """Trap 3: a batch of one is not taken for a constant."""
    gm = check_trace(Grid(), images(batch, 3, 6, 7))
    assert tensor_type(next(iter(gm.graph.nodes))).shape == (None, 3, 6, 7)  # type: ignore[union-attr]
    assert notes(gm) == ()


@pytest.mark.parametrize("batch", [1, 2])
def test_attention_is_open_in_the_batch(batch: int) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Any:
            b, n, c = x.shape
            q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
            y = (q @ k.transpose(-2, -1) * (c // 2) ** -0.5).softmax(-1) @ v
            return self.out(y.transpose(1, 2).reshape(b, n, c))

    check_trace(Attention(), images(batch, 5, 8), images(3, 7, 8))


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)


class OfTwo(Convolution):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        for i in range(x.shape[0]):
            y = y + y[i].mean()
        return y


class Unbound(OfTwo):
    def forward(self, x: Tensor) -> Any:
        first, second = self.conv(x)
        return first + second


class Branch(OfTwo):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        if len(x) == 2:
            y = y * 2
        return y


class Integer(OfTwo):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x).view(int(x.shape[0]), -1)


FIXED = [(Integer, "int(x"), (OfTwo, "in range"), (Unbound, "first, second ="), (Branch, "if len(x)")]


@pytest.mark.parametrize(("kind", "line"), FIXED)
def test_a_batch_that_the_code_fixes_is_a_warning_that_names_the_line(kind: type[nn.Module], line: str) -> None:
    model = randomise(kind())
    with pytest.warns(QatcWarning) as caught:
        gm = trace(model, images(2, 3, 8, 8))
    message = f"the batch is fixed to that of the example inputs, at {place(kind, line)}"
    assert [str(w.message) for w in caught] == [message]
    assert message in notes(gm)
    check_outputs(model, gm, images(2, 3, 8, 8))


def test_a_test_of_the_batch_that_does_not_fix_it_is_no_warning() -> None:
    class Checked(OfTwo):
        def forward(self, x: Tensor) -> Any:
            if x.shape[0] == 0:
                raise ValueError("an empty batch")
            assert x.shape[0] < 1000
            return self.conv(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_trace(Checked(), images(2, 3, 8, 8))


def test_two_inputs_of_one_batch_are_no_warning() -> None:
    class Sum(Convolution):
        def forward(self, a: Tensor, b: Tensor) -> Any:
            return self.conv(a) + self.conv(b)

    check_trace(Sum(), (images(2, 3, 8, 8), images(2, 3, 8, 8, seed=1)))


def test_an_input_without_the_batch_stays_as_it_is() -> None:
    class Masked(Convolution):
        def forward(self, x: Tensor, weights: Tensor, threshold: Tensor) -> Any:
            return torch.where(self.conv(x) > threshold, weights, 0.5)

    check_trace(Masked(), (images(2, 3, 8, 8), images(8, 8), torch.tensor(0.1)))


def test_an_input_of_the_batchs_size_by_chance() -> None:
    class Masked(Convolution):
        def forward(self, x: Tensor, factor: Tensor) -> Any:
            return self.conv(x) * factor.view(1, 4, 1, 1)

    model = randomise(Masked())
    with pytest.warns(QatcWarning, match="the batch is fixed") as caught:
        gm = trace(model, (images(4, 3, 8, 8), images(4)))
    assert len(caught) == 1
    check_outputs(model, gm, (images(4, 3, 8, 8), images(4)))
