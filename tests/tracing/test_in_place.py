"""Tensors that are overwritten (trap 14), and blocks without gradient."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qatc
from qatc.trace import trace
from tests.models import conv, images, randomise
from tests.tracing.check_trace import check_trace, targets


class Convs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(4, 4)


class AddedTo(Convs):
    """`x += y` on a tensor that was read before, and is read after under both names."""

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        before = y * 2
        same = y
        y += self.b(before)
        y -= 0.5
        y *= before
        return same + before


class Methods(Convs):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        z = y + 1
        F.hardtanh(z, -1.0, 1.0, inplace=True)
        y.add_(z, alpha=2).mul_(0.5)
        F.relu_(y)
        z.masked_fill_(z.detach() > 1.5, 1.0)
        return self.b(y) + z.sub(y).neg_()


class Out(Convs):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x.clone())
        with torch.no_grad():
            out = torch.zeros_like(y)
            torch.mul(y, 2.0, out=out)
            out2 = out
            torch.add(out, 1.0, out=out2)
        return self.b(y) + out


class Parts(Convs):
    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        z = y.clone()
        z[:, 0] = y[:, 1]
        z[:, 1:3, ::2] += 1.0
        z[..., 0] = z[..., 1] * 2
        first, second = z[:, :2], z[:, 2:]
        first.add_(1.0)
        z[y > 0.5] = 0.0
        return self.b(z) + torch.cat([first, second], 1)


class InputOverwritten(Convs):
    def forward(self, x: Tensor) -> Any:
        x = x.sub_(0.5)
        x /= 2.0
        return self.b(self.a(x))


@pytest.mark.parametrize("kind", [AddedTo, Methods, Out, Parts, InputOverwritten])
def test_overwritten_tensors(kind: type[nn.Module]) -> None:
    check_trace(kind(), images())


@pytest.mark.parametrize("kind", [AddedTo, Methods, InputOverwritten])
def test_overwritten_tensors_prepared(kind: type[nn.Module]) -> None:
    qatc.prepare(randomise(kind()), images(), verify=True)


class Residual(nn.Module):
    """The skip is the input of a dropout, which in eval mode gives that very tensor."""

    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.drop = conv(3, 4), conv(4, 4), drop

    def forward(self, x: Tensor) -> Any:
        skip = self.a(x)
        return self.b(self.drop(skip)) + skip


class DropPath(nn.Module):
    drop_prob = 0.5

    def forward(self, x: Tensor) -> Any:
        if not self.training:
            return x
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(1 - self.drop_prob) / (1 - self.drop_prob)


class HalfDropPath(nn.Module):
    """Names its probability nowhere."""

    def forward(self, x: Tensor) -> Any:
        return x * torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 0.5)) / 0.5 if self.training else x


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return F.dropout(x, 0.5, self.training)


@pytest.mark.parametrize(
    "drop",
    [nn.Dropout(0.5), nn.Dropout2d(0.5), DropPath(), HalfDropPath(), FunctionalDropout(), nn.Identity()],
    ids=lambda drop: type(drop).__name__,
)
def test_a_residual_does_not_go_through_a_dropout_that_gives_its_input_back(drop: nn.Module) -> None:
    gm = check_trace(Residual(drop), images())
    (add,) = [n for n in gm.graph.nodes if n.op == "call_function" and n.target.__name__ == "add"]
    assert add.args[1].target == "a"
    qatc.prepare(randomise(Residual(drop)), images(), verify=True)


class NoGradient(Convs):
    """A target computed without gradient, and one detached."""

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        with torch.no_grad():
            target = self.b(y).sigmoid()
            scale = target.amax((1, 2, 3), keepdim=True)
            with torch.enable_grad():
                kept = y * 2
        return y * target / scale + self.b(y.detach()) + kept


class NoGradientPart(Convs):
    """A frozen trunk, as a decorated method, and inference of a whole part."""

    @torch.no_grad()
    def trunk(self, x: Tensor) -> Tensor:
        y: Tensor = self.a(x)
        return y.relu()

    def forward(self, x: Tensor) -> Any:
        return self.b(self.trunk(x)), self.trunk(x * 2)


class Statistics(Convs):
    """A running average that forward updates without gradient."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        with torch.no_grad():
            self.mean.mul_(0.9).add_(y.mean((0, 2, 3)), alpha=0.1)
        return self.b(y - self.mean.view(1, 4, 1, 1))


@pytest.mark.parametrize("kind", [NoGradient, NoGradientPart, Statistics])
def test_blocks_without_gradient_stop_it_as_in_the_model(kind: type[nn.Module]) -> None:
    check_trace(kind(), images())


def test_a_running_average_has_no_history() -> None:
    gm: Any = trace(randomise(Statistics()), images()).train()
    for _ in range(2):
        gm(images()).sum().backward()
    assert gm.mean.grad_fn is None
    assert gm.mean.abs().max() > 0


def test_a_block_without_gradient_is_in_the_graph_as_a_detach() -> None:
    assert "detach" in targets(check_trace(NoGradientPart(), images()))
