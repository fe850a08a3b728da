"""No parameter gets lost: what an earlier run kept is not a constant of the graph (trap 2)."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.errors import QatcWarning, TraceError
from qatc.nested import tensors
from qatc.trace import trace
from tests.check_pass import evaluated
from tests.models import conv, images, randomise
from tests.tracing.check_trace import check_same, targets


class Cached(nn.Module):
    """Keeps a gathered parameter in eval mode, as timm's attention biases are kept."""

    index: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.biases = nn.Linear(6, 5), nn.Parameter(torch.zeros(2, 3))
        self.register_buffer("index", torch.tensor([0, 2, 1, 0, 1]), persistent=False)
        self.cache: dict[str, Tensor] = {}
        self.kept: Tensor | None = None

    def bias(self, key: str) -> Tensor:
        if self.training:
            return self.biases[:, self.index]
        if key not in self.cache:
            self.cache[key] = self.biases[:, self.index]
        return self.cache[key]

    def forward(self, x: Tensor) -> Any:
        return self.fc(x) + self.bias(str(x.device)).sum(0)


class CachedTensor(Cached):
    """Keeps it as an attribute."""

    def bias(self, key: str) -> Tensor:
        if self.training or self.kept is None:
            self.kept = self.biases[:, self.index]
        return self.kept


KINDS = [Cached, CachedTensor]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_cached_by_an_earlier_run_is_in_the_graph(kind: type[nn.Module], grad: bool) -> None:
    model = randomise(kind())
    with torch.set_grad_enabled(grad):
        model.eval()(images(4, 6))
    gm = trace(model.train(), images(4, 6))
    assert "biases" in targets(gm, "get_attr")
    check_same(randomise(kind()), gm, images(4, 6))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_itself_stays_the_users(kind: type[nn.Module]) -> None:
    model = randomise(kind())
    expected = evaluated(model, [images(4, 6)])
    kept = [id(t) for _, t in tensors([model.cache, model.kept])]
    trace(model, images(4, 6))
    assert len(kept) == 1
    assert [id(t) for _, t in tensors([model.cache, model.kept])] == kept
    assert torch.equal(evaluated(model, [images(4, 6)]), expected)


class Frozen(nn.Module):
    """Computed once, in `fuse`, and then read for good: nobody can get the parameter back."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.scale = nn.Linear(6, 5), nn.Parameter(torch.ones(5))
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Any:
        if not self.kept or self.training:
            self.kept = [self.scale.exp()]
        return self.fc(x) * self.kept[0]


def test_a_parameter_that_cannot_be_got_back_is_an_error() -> None:
    model = randomise(Frozen())
    evaluated(model, [images(4, 6)])
    with pytest.raises(TraceError, match="1 parameters that the model trains are not in its graph: scale") as caught:
        qatc.prepare(model.train(), images(4, 6))
    assert "clear such a cache" in str(caught.value)


def test_a_parameter_that_reaches_the_result_through_code_that_torch_cannot_see_is_an_error() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.scale = nn.Linear(6, 5), nn.Parameter(torch.ones(5))
            self.bag = [self.scale * 2]

        def forward(self, x: Tensor) -> Any:
            return self.fc(x) * self.bag[0]

    with pytest.raises(TraceError, match="parameters that the model trains are not in its graph: scale"):
        trace(randomise(Hidden()), images(4, 6))


class AuxHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.aux = conv(3, 4), conv(4, 2)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return (y, self.aux(y)) if self.training else y


def test_parameters_used_only_in_training_are_a_warning() -> None:
    with pytest.warns(QatcWarning) as caught:
        trace(randomise(AuxHead()), images())
    messages = [str(w.message) for w in caught]
    assert "2 parameters are used only in training and left out: aux.bias, aux.weight" in messages


def test_parameters_that_nothing_uses_are_no_warning() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.spare = conv(3, 4), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Any:
            return self.conv(x)

    model = randomise(Spare())
    check_same(model, trace(model, images()), images())


def test_parameters_in_lists_of_tensors_are_members_of_the_model() -> None:
    class Lists(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([torch.ones(5, 6), torch.ones(5, 5)])
            self.biases = [self.weights[0][:, 0].detach(), torch.ones(5)]
            self.plain = [nn.Parameter(torch.ones(5)), self.weights[1]]

        def forward(self, x: Tensor) -> Any:
            y = x @ self.weights[0].t() + self.biases[1]
            return torch.stack([y @ self.plain[1], y * self.weights[0][:, 0]]).sum(0)

    model = randomise(Lists())
    gm = trace(model, images(4, 6))
    assert {"weights.0", "weights.1"} <= set(targets(gm, "get_attr"))
    check_same(model, gm, images(4, 6))


class TiedByPart(nn.Module):
    """The first name of the tied weight is of a module that is never called (T5's shared embedding)."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.fc = nn.Embedding(6, 6), nn.Linear(6, 6)
        self.fc.weight = self.shared.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(x)
        return result


def test_a_tied_parameter_is_reached_by_any_of_its_names() -> None:
    gm = trace(TiedByPart(), torch.randn(2, 6))
    gm(torch.randn(2, 6)).sum().backward()
    assert gm.get_parameter("fc.weight").grad is not None


class TrainsAloneAndFails(nn.Module):
    """Cannot run for real, so that nobody can tell whether it trains what its graph lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.other = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor:
            raise RuntimeError("no device for this")
        result: Tensor = self.fc(x)
        return result


def test_where_the_model_does_not_run_it_is_said_that_lost_parameters_are_not_judged() -> None:
    with pytest.warns(QatcWarning, match=r"2 parameters are not in the graph .*no device for this"):
        trace(TrainsAloneAndFails(), torch.randn(2, 6))
