"""What the float check must find, what must not disturb it, and that it touches nothing."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, fx, nn

import qatc
from qatc import api, ir
from qatc.arguments import Arguments
from qatc.errors import ConfigError, FloatCheckError, QatcWarning
from qatc.float_check import check_float
from qatc.float_difference import float_difference
from qatc.passes import qat_pipeline
from qatc.pipeline import Pass, Pipeline
from qatc.recording import quantizers
from qatc.trace import trace
from tests.models import Classifier, Dropouts, Functional, ResidualIdentity, SharedBatchNorm, conv, images, randomise
from tests.signatures import samples
from tests.torchvision_networks import NETWORKS, network


class Noisy(nn.Module):
    """Draws at random in each way that models do, in train mode: dropout, of channels, stochastic depth, noise."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.drop = conv(3, 4), conv(4, 4), nn.Dropout2d(0.5)

    def forward(self, x: Tensor) -> Any:
        y = F.dropout(self.a(x), 0.3, self.training)
        keep = torch.empty_like(y[:, :1, :1, :1]).bernoulli_(0.5)
        return self.drop(self.b(y)) * keep + torch.rand_like(y)


@dataclass(frozen=True)
class Harmless(Pass):
    name: ClassVar[str] = "harmless"

    def run(self, gm: fx.GraphModule) -> bool:
        return True


@dataclass(frozen=True)
class ScaleWeight(Pass):
    """Changes what is computed by a thousandth."""

    name: ClassVar[str] = "scale-weight"

    def run(self, gm: fx.GraphModule) -> bool:
        with torch.no_grad():
            gm.get_parameter("conv1.weight").mul_(1.001)
        return True


@dataclass(frozen=True)
class DetachWeight(Pass):
    """Computes the same, with a parameter that no gradient reaches."""

    name: ClassVar[str] = "detach-weight"

    def run(self, gm: fx.GraphModule) -> bool:
        layer, weight = gm.get_submodule("conv2"), gm.get_parameter("conv2.weight").detach()
        del layer.weight
        layer.register_buffer("weight", weight)
        return True


@dataclass(frozen=True)
class StretchGradient(Pass):
    """Computes the same, with gradients that are 1 % too large."""

    name: ClassVar[str] = "stretch-gradient"

    def run(self, gm: fx.GraphModule) -> bool:
        gm.get_submodule("conv2").register_forward_hook(lambda _, args, y: 1.01 * y - 0.01 * y.detach())
        return True


@dataclass(frozen=True)
class AnotherMomentum(Pass):
    """Changes what a BatchNorm remembers of a step."""

    name: ClassVar[str] = "another-momentum"

    def run(self, gm: fx.GraphModule) -> bool:
        gm.get_submodule("stem.1").momentum = 0.3  # type: ignore[assignment]
        return True


@dataclass(frozen=True)
class AddRelu(Pass):
    """Inserts an op that changes train mode alone."""

    name: ClassVar[str] = "add-in-training"

    def run(self, gm: fx.GraphModule) -> bool:
        node = next(n for n in gm.graph.nodes if n.target == "head")
        ir.set_module(gm, "drop", nn.Dropout(0.5))
        call = ir.insert_module_call(gm, node, "drop", node)
        node.replace_all_uses_with(call, delete_user_cb=lambda user: user is not call)
        gm.recompile()
        return True


def checked(model: nn.Module, *passes: Pass, inputs: Any = None) -> None:
    inputs = images() if inputs is None else inputs
    gm = trace(model, inputs)
    pipeline = Pipeline(passes)
    pipeline.run(gm)
    check_float(model, gm, pipeline, inputs, Arguments((inputs,)))


SABOTAGE: dict[type[Pass], str] = {
    ScaleWeight: "the output in eval mode is off by",
    DetachWeight: "the parameter 'conv2.weight' gets no gradient any more",
    StretchGradient: "the gradient of 'stem.0.weight' is off by",
    AnotherMomentum: "the buffer 'stem.1.running_mean' after a step is off by",
    AddRelu: "the output in train mode is off by",
}


@pytest.mark.parametrize("kind", SABOTAGE)
def test_the_first_pass_that_changes_the_function_is_named(kind: type[Pass]) -> None:
    with pytest.raises(FloatCheckError) as caught:
        checked(randomise(ResidualIdentity()), Harmless(), kind(), Harmless(), ScaleWeight())
    assert str(caught.value).startswith(f"after pass {kind.name!r} the model is not the one given:\n  {SABOTAGE[kind]}")


def test_the_error_says_what_where_how_much_and_what_is_allowed() -> None:
    with pytest.raises(FloatCheckError) as caught:
        checked(randomise(ResidualIdentity()), Harmless(), AddRelu())
    assert re.sub(r"py:\d+", "py:LINE", str(caught.value)) == snapshot("""\
after pass 'add-in-training' the model is not the one given:
  the output in train mode is off by 0.68 of its scale, 1e-06 allowed (and 9 more)
  at: %drop head models.py:LINE
  try: this is a defect of the pass: please report it with the text dumps that dump_dir writes\
""")


def test_prepare_runs_the_check_on_its_own_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomise(ResidualIdentity())
    passes = qat_pipeline

    def sabotaged(*given: Any) -> Pipeline:
        return Pipeline((*passes(*given), ScaleWeight()))

    monkeypatch.setattr(api, "qat_pipeline", sabotaged)
    qatc.prepare(model, images())
    with pytest.raises(FloatCheckError, match="after pass 'scale-weight'"):
        qatc.prepare(model, images(), verify=True)


def test_a_graph_that_tracing_got_wrong_is_told_from_a_pass() -> None:
    class TrainBranch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            return 2 * y if self.training else y

    with pytest.warns(QatcWarning, match="runs only in training"), pytest.raises(FloatCheckError) as caught:
        qatc.prepare(randomise(TrainBranch()), images(), verify=True)
    assert str(caught.value) == snapshot("""\
after tracing the model is not the one given:
  the output in train mode is off by 0.31 of its scale, 1e-06 allowed (and 2 more)
  try: put what the model does only in train mode into a module of its own; if there is none, please report this\
""")


def test_a_model_that_is_never_twice_the_same_is_not_blamed_on_a_pass() -> None:
    class Counts(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            Counts.calls += 1
            return self.conv(x) + Counts.calls

    model = randomise(Counts())
    with pytest.raises(FloatCheckError) as caught:
        qatc.prepare(model, images(), verify=True)
    assert str(caught.value) == snapshot("""\
the model gives other results each time that it runs:
  the output in eval mode is off by 0.12 of its scale, 1e-04 allowed (and 2 more)
  try: make it deterministic, but for torch's own random draws, or leave verify=True out\
""")


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("kind", [Functional, ResidualIdentity, SharedBatchNorm, Classifier, Dropouts])
def test_models_that_are_prepared_well_pass(kind: Callable[[], nn.Module], target: str) -> None:
    model = randomise(kind())
    gm = qatc.prepare(model, images(), target, verify=True)
    found = float_difference(model, gm, (images(),))
    assert (found.same, found.skipped, found.dtype) == (True, (), torch.float64)
    assert found.eval < 1e-5
    assert max(found.gradients, found.train) < 1e-9


@pytest.mark.parametrize("kind", samples(0))
def test_models_of_any_signature_pass(kind: type[nn.Module]) -> None:
    qatc.prepare(randomise(kind()), samples(0)[kind], verify=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_pass(name: str) -> None:
    qatc.prepare(network(name), images(2, 3, 64, 64), verify=True)


def test_random_draws_do_not_disturb() -> None:
    model = randomise(Noisy())
    found = float_difference(model, qatc.prepare(model, images()), (images(),))
    assert found.same, found.deviations
    assert found.gradients < 1e-9


def test_a_dropout_of_another_share_is_found() -> None:
    model = randomise(Noisy())
    gm = qatc.prepare(model, images())
    gm.get_submodule("drop").p = 0.25  # type: ignore[assignment]
    assert not float_difference(model, gm, (images(),)).same


def test_nothing_of_the_users_is_changed() -> None:
    model = randomise(Noisy())
    model.b.eval()  # type: ignore[union-attr]
    x = images().requires_grad_()
    model(x).sum().backward()
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    gradients, seen = [p.grad.clone() for p in model.parameters() if p.grad is not None], x.grad
    draws = torch.get_rng_state()
    gm = qatc.prepare(model, x, verify=True)
    ready = copy.deepcopy(gm.state_dict())
    float_difference(model, gm, (x,))
    assert torch.equal(torch.get_rng_state(), draws)
    assert torch.get_default_dtype() is torch.float32
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True) if p.grad is not None)
    assert x.grad is seen
    for key, value in gm.state_dict().items():
        torch.testing.assert_close(value, ready[key], rtol=0, atol=0, equal_nan=True)
    assert all(q.enabled and q.observing for _, q in quantizers(gm))


def test_the_check_needs_example_inputs() -> None:
    with pytest.raises(ConfigError) as caught:
        qatc.prepare(Classifier(), verify=True)
    assert str(caught.value) == snapshot("""\
verify=True needs data to run the model on
  try: give example_inputs, of the real kind\
""")


def test_what_the_original_cannot_do_is_skipped_and_told() -> None:
    class OneBatch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            return self.conv(x).reshape(4, 256)

    model = randomise(OneBatch())
    with pytest.warns(QatcWarning, match="the batch is fixed"):
        gm = qatc.prepare(model, images())
    found = float_difference(model, gm, (images(),))
    assert found.same
    assert [text.partition("RuntimeError")[0] for text in found.skipped] == [
        "in eval mode with a batch of 5: the original raises "
    ]


def test_nan_must_stand_at_the_same_places() -> None:
    class Undefined(nn.Module):
        def __init__(self, at: float) -> None:
            super().__init__()
            self.at = at

        def forward(self, x: Tensor) -> Any:
            return torch.where(x > self.at, x.new_tensor(torch.nan), x)

    assert float_difference(Undefined(0.1), Undefined(0.1), (images(),)).same
    found = float_difference(Undefined(0.1), Undefined(0.2), (images(),))
    assert str(found.deviations[0]) == "the output in eval mode has NaN or infinity at other places"


def test_a_model_that_runs_in_float32_alone_is_compared_in_it() -> None:
    class Float32(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            return self.conv(x.float())

    model = randomise(Float32())
    found = float_difference(model, copy.deepcopy(model), (images(),))
    assert (found.same, found.dtype) == (True, torch.float32)
    spoilt = copy.deepcopy(model)
    with torch.no_grad():
        spoilt.conv.weight[0].mul_(1.1)  # type: ignore[union-attr,index]
    assert not float_difference(model, spoilt, (images(),)).same
