"""Tensors that a model makes (trap 12): constants are buffers outside the state, the rest follows the inputs."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qatc.trace import trace
from tests.models import conv, images, randomise
from tests.tracing.check_trace import check_trace, targets


class Grid(nn.Module):
    """A grid of numbers alone, on the input's device."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(5, 4)

    def forward(self, x: Tensor) -> Any:
        rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8, device=x.device), indexing="ij")
        grid = torch.stack([rows, columns]).to(x) / 8 + torch.ones(2, 1, 1) + torch.eye(8, device=x.device)
        return self.conv(torch.cat([x, grid.expand(len(x), -1, -1, -1)], 1))


class Shaped(Grid):
    """A grid of the input's sizes."""

    def forward(self, x: Tensor) -> Any:
        b, _, h, w = x.shape
        rows = torch.arange(h, device=x.device, dtype=x.dtype).view(h, 1).expand(b, 1, h, w)
        columns = torch.arange(0, w, 1, device=x.device).expand(b, 1, h, w)
        out = torch.zeros(b, 4, h, w, device=x.device, dtype=x.dtype)
        return self.conv(torch.cat([x, rows, columns], 1)) + out + torch.full((b, 1, 1, 1), 0.5, device=x.device)


def test_what_is_made_of_numbers_is_a_buffer_outside_the_state() -> None:
    gm = check_trace(Grid(), images())
    assert {"arange", "meshgrid", "ones", "eye", "stack"}.isdisjoint(targets(gm, "call_function"))
    assert list(gm.state_dict()) == ["conv.weight", "conv.bias"]
    assert [name for name, _ in gm.named_buffers()]


def test_what_depends_on_sizes_is_computed_and_follows_them() -> None:
    gm = check_trace(Shaped(), images(2, 3, 8, 8), images(3, 3, 6, 10))
    assert {"arange", "zeros", "full"} <= set(targets(gm))
    assert list(gm.state_dict()) == ["conv.weight", "conv.bias"]


class Moved(Grid):
    """Made where torch makes tensors, and moved by `to` in its forms."""

    def forward(self, x: Tensor) -> Any:
        b, _, h, w = x.shape
        zeros = torch.zeros(b, 1, h, w).to(x.device) + torch.tensor(0.5)
        ones = torch.ones(b, 1, h, w, dtype=torch.int64).to(device=x.device, dtype=x.dtype)
        return self.conv(torch.cat([x, zeros, ones], 1)) + torch.arange(w).to(x.device, x.dtype)


@pytest.mark.parametrize("kind", [Grid, Shaped, Moved])
def test_the_device_is_that_of_the_inputs(kind: type[nn.Module]) -> None:
    gm = trace(randomise(kind()), images())
    moved = copy.deepcopy(gm).to("meta")
    assert moved(images(2, 3, 8, 8).to("meta")).device.type == "meta"


def test_random_numbers_are_drawn_at_every_call() -> None:
    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x) + torch.randn(4, 1, 1) + torch.rand(8) + torch.empty(4, 8, 8).uniform_()
            y = y + torch.bernoulli(torch.full((8,), 0.5)) + torch.randperm(8) + torch.randint(3, (8,))
            return y + torch.normal(0.0, 1.0, (8,)) + F.dropout(torch.ones(4, 8, 8), 0.5, True)

    gm = check_trace(Noise(), images(), batches=())
    names = {"randn", "rand", "uniform_", "bernoulli", "randperm", "randint", "normal", "dropout"}
    assert names <= set(targets(gm))
    assert not torch.equal(gm(images()), gm(images()))


class Filled(nn.Module):
    """Tensors of numbers into which results are written."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        out = torch.zeros(2, 4, 8, device=x.device)
        out[:, 0] = y[0, :2].mean(1)
        out[:, 1].copy_(y[1, :2].mean(1))
        out.view(2, 32)[:, 16:24].add_(y[0, 2:].mean(1))
        count = torch.zeros(8)
        count += 1
        count[2:4] = 5
        total = torch.zeros(4, 8, 8)
        for row in y:
            total += row
        return out.sum() * count + y + total


def test_constants_that_are_written_into_begin_anew_at_every_call() -> None:
    class Open(Filled):
        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            out = torch.zeros(4, 2, 8)
            out[:, 0] = y.mean((0, 2))
            out[:, 1].copy_(y.amax((0, 2)))
            view = out.view(4, 16)
            view[:, 3:5] *= 2
            count = torch.zeros(8)
            count += 1
            count[2:4] = 5
            total = torch.zeros(4, 8)
            total += y.mean((0, 2))
            return out.sum(1) * count + total, y

    model = randomise(Open())
    gm = check_trace(model, images())
    with torch.no_grad():
        first = [t.clone() for t in gm(images())]
        gm(images(seed=3))
        assert all(torch.equal(a, b) for a, b in zip(gm(images()), first, strict=True))


def test_a_loop_over_the_batch_that_adds_up_in_a_constant() -> None:
    model = randomise(Filled())
    with pytest.warns(UserWarning, match="the batch is fixed"):
        gm = trace(model, images(2, 3, 8, 8))
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(gm(images(2, 3, 8, 8)), model(images(2, 3, 8, 8)))


def test_sizes_in_a_tensor_stay_open() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            b, _, h, w = x.shape
            limits = torch.tensor([w, h], device=x.device)
            return self.conv(x) / limits.max() + torch.as_tensor(b) + x.new_tensor([h / w])

    check_trace(Scaled(), images(2, 3, 8, 8), images(3, 3, 6, 10))


def test_a_constant_is_made_once_and_its_buffer_follows_the_model() -> None:
    gm = trace(randomise(Grid()), images())
    buffers = dict(gm.named_buffers())
    assert all(b.dtype == torch.float32 for b in buffers.values() if b.is_floating_point())
    assert {b.device.type for b in copy.deepcopy(gm).to("meta").buffers()} == {"meta"}
