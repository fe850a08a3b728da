"""Tracing leaves the user's module as it was, also when it fails (trap 5)."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from qatc.errors import QatcError, QatcWarning
from qatc.trace import trace
from tests.models import conv, images, randomise


class Keeps(nn.Module):
    """Stores whatever it computes wherever it can."""

    steps: Any
    part: nn.Module
    grid: Any

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.part = conv(3, 4), nn.BatchNorm2d(4), Part()
        self.grid = None
        self.calls, self.seen = 0, {"first": images(1)}
        self.history: list[Any] = []
        self.nested: dict[str, list[Any]] = {"maps": []}
        self.shapes: set[Any] = set()
        self.conv.weight.requires_grad_(False)
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        y = self.bn(self.conv(x))
        self.grid = torch.arange(x.shape[3]).to(y) + y[:1]
        self.seen["last"] = y
        self.history.append(y)
        self.nested["maps"].append(y)
        self.shapes.add(tuple(x.shape[1:]))
        self.steps += 1
        self.extra = y
        self.conv.last_input = x
        return self.part(y) + self.grid


class Part(nn.Module):
    def forward(self, x: Tensor) -> Any:
        self.last = x
        return x * 2


class Fails(Keeps):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        if y.sum() > 0:
            return y
        return -y


class FailsInPart(Keeps):
    def __init__(self) -> None:
        super().__init__()
        self.part = DecidingPart()


class DecidingPart(Part):
    def forward(self, x: Tensor) -> Any:
        self.last = x
        return -x if x.sum() > 0 else x


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for item in value.values() for t in tensors_in(item)]
    return [t for item in value for t in tensors_in(item)] if isinstance(value, list | tuple | set) else []


def state(model: nn.Module) -> list[Any]:
    """Return everything that could change, with the identity of the tensors."""
    found = []
    for name, module in model.named_modules():
        for key, value in module.__dict__.items():
            hooks = len(value) if "hooks" in key else None
            plain = copy.copy(value) if isinstance(value, bool | int | set) else None
            tensors = [(id(t), t.requires_grad, t._version, t.tolist()) for t in tensors_in(value)]
            found.append((name, key, type(value), hooks, plain, tensors))
    return found


def quietly(kind: type[nn.Module], model: nn.Module, x: Tensor) -> None:
    if kind is Fails:
        with pytest.raises(QatcError):
            trace(model, x)
    elif kind is FailsInPart:
        with pytest.warns(QatcWarning, match="part"):
            trace(model, x)
    else:
        trace(model, x)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [Keeps, Fails, FailsInPart])
def test_nothing_of_the_users_module_changes(kind: type[nn.Module], training: bool) -> None:
    model: Any = randomise(kind()).train(training)
    x = images()
    calls = []
    model.part.register_forward_hook(lambda *_: calls.append(1))
    before, keys = state(model), [*model.state_dict()]
    values = x.clone()
    quietly(kind, model, x)
    assert state(model) == before
    assert [*model.state_dict()] == keys
    assert torch.equal(x, values)
    assert not x.requires_grad
    assert nn.Module.__call__.__qualname__ == "Module._wrapped_call_impl"
    assert len([1, 2]) == 2


def test_the_graph_keeps_no_fake_tensors() -> None:
    gm = trace(randomise(Keeps()), images())
    held = [t for m in gm.modules() for t in tensors_in(m.__dict__)]
    assert held
    assert not any(isinstance(t, FakeTensor) for t in held)
    gm(images())


def test_a_flag_that_a_forward_sets_is_not_set_by_tracing() -> None:
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.first = conv(3, 4), True

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            if self.first:
                self.first = False
                y = y + 1
            return y

    model: Any = randomise(Once())
    with torch.no_grad():
        gm = trace(model, images())
        assert model.first is True
        torch.testing.assert_close(gm(images()), model(images()))


def test_torch_is_as_it_was_after_an_error() -> None:
    attributes: list[Callable[[], Any]] = [
        lambda: nn.Module.__call__, lambda: torch.autograd.Function.__dict__["apply"],
        lambda: torch.jit.ScriptFunction.__call__, lambda: len, torch.backends.mha.get_fastpath_enabled,
        torch.is_grad_enabled, lambda: torch.get_rng_state().tolist(),
    ]  # fmt: skip
    before = [attribute() for attribute in attributes]
    with pytest.raises(QatcError):
        trace(Fails(), images())
    model = Fails()
    assert [attribute() for attribute in attributes][:-1] == before[:-1]
    del model


class Counting(nn.BatchNorm2d):
    """Counts its steps by itself, as timm's BatchNormAct2d does."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, self.training)


def test_a_run_in_training_mode_counts_no_step() -> None:
    gm = trace(nn.Sequential(nn.Conv2d(3, 4, 3), Counting(4), Counting(4)), torch.zeros(2, 3, 8, 8))
    counters = [value for name, value in gm.state_dict().items() if name.endswith("num_batches_tracked")]
    assert [int(value) for value in counters] == [0, 0]
