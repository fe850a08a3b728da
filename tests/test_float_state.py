"""A float model's state_dict into the prepared model and back out."""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import qatc
from qatc.errors import QatcError
from qatc.float_state import quantizer_names
from tests.check_pass import evaluated
from tests.models import ResidualIdentity, SharedBlock, SharedConv, conv, images, randomise
from tests.prepared import every_config

every_model = pytest.mark.parametrize("kind", [ResidualIdentity, SharedConv, SharedBlock])


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@every_model
def test_a_float_state_loads_and_comes_out_again(kind: type[nn.Module]) -> None:
    gm = qatc.prepare(randomise(kind()), images())
    qatc.calibrate(gm, [images()], progress=False)
    ranges = {name: gm.state_dict()[name].clone() for name in quantizer_names(gm)}
    other = randomise(kind(), seed=1)
    given = copy.deepcopy(other.state_dict())
    gm.load_state_dict(given)
    assert equal(given, other.state_dict())
    assert equal(qatc.float_state_dict(gm), other.state_dict())
    assert equal({name: gm.state_dict()[name] for name in ranges}, ranges)
    back = kind()
    back.load_state_dict(qatc.float_state_dict(gm))
    assert torch.equal(evaluated(back, [images()]), evaluated(other, [images()]))


@pytest.mark.parametrize("name", ["lsq", "lsq_plus", "learned_range", "fixed"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_what_began_with_a_weight_begins_again_with_the_one_loaded(name: str, per_channel: bool) -> None:
    layer = qatc.LayerConfig(weight_quantizer=name, per_channel=per_channel)
    gm = qatc.prepare(randomise(ResidualIdentity()), images(), config=qatc.QConfig(layer))
    other = randomise(ResidualIdentity(), seed=1)
    parameters = {id(p) for p in gm.parameters()}
    nn.Sequential(gm).load_state_dict({f"0.{key}": value for key, value in other.state_dict().items()})
    direct = qatc.prepare(other, images(), config=qatc.QConfig(layer))
    assert equal(gm.state_dict(), direct.state_dict())
    assert {id(p) for p in gm.parameters()} == parameters  # the optimizer's


def test_learned_steps_stay_where_loading_changes_no_weight_or_brings_steps_too() -> None:
    gm: Any = qatc.prepare(randomise(ResidualIdentity()), images(), config="w4a4")
    qatc.calibrate(gm, [images()], progress=False)
    learned = [p for n, p in gm.named_parameters() if n.endswith("weight_quantizer.log_scale")]
    with torch.no_grad():
        for p in learned:
            p += 1
    before = copy.deepcopy(gm.state_dict())
    gm.load_state_dict(copy.deepcopy(qatc.float_state_dict(gm)))
    assert equal(gm.state_dict(), before)
    with torch.no_grad():
        gm.get_submodule("stem.0").weight.mul_(2)
    gm.load_state_dict(before)
    assert equal(gm.state_dict(), before)


def test_shared_parameters_stay_shared_when_a_state_is_loaded() -> None:
    gm: Any = qatc.prepare(SharedConv(), images())
    gm.load_state_dict(randomise(SharedConv(), seed=1).state_dict())
    assert gm.get_submodule("conv__call1").weight is gm.conv.weight


@pytest.mark.parametrize("strict", [True, False])
def test_what_the_float_model_lacks_is_still_missed(strict: bool) -> None:
    gm = qatc.prepare(ResidualIdentity(), images())
    state: dict[str, Tensor] = dict(ResidualIdentity().state_dict())
    state.pop("stem.0.weight")
    state["more"] = torch.zeros(1)
    if strict:
        with pytest.raises(RuntimeError, match=r'(?s)Missing.*"stem\.0\.weight".*Unexpected.*"more"') as caught:
            gm.load_state_dict(state)
        assert "_q." not in str(caught.value)
    else:
        found = gm.load_state_dict(state, strict=False)
        assert (found.missing_keys, found.unexpected_keys) == (["stem.0.weight"], ["more"])


@every_config
def test_a_prepared_models_state_must_be_whole(config: str) -> None:
    gm = qatc.prepare(ResidualIdentity(), images(), config=config)
    state = gm.state_dict()
    name = sorted(quantizer_names(gm))[0]
    state.pop(name)
    with pytest.raises(RuntimeError, match=f'Missing.*"{name}"'):
        gm.load_state_dict(state)


class WithAuxiliary(nn.Module):
    """A branch that only training takes, and a member named as one that every graph module has."""

    def __init__(self) -> None:
        super().__init__()
        self.graph, self.aux = conv(3, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        y = self.graph(x)
        return (y, self.aux(y)) if self.training else y


@pytest.mark.filterwarnings("ignore::qatc.QatcWarning")
def test_what_prepare_renamed_or_left_out_is_found() -> None:
    model = randomise(WithAuxiliary())
    gm = qatc.prepare(WithAuxiliary(), images())
    gm.load_state_dict(model.state_dict())
    assert equal(qatc.float_state_dict(gm), {n: v for n, v in model.state_dict().items() if n.startswith("graph.")})


@pytest.mark.parametrize("wrapper", [nn.DataParallel, torch.compile, AveragedModel])
def test_wrappers_are_looked_through(wrapper: Any) -> None:
    model = randomise(ResidualIdentity())
    wrapped = wrapper(qatc.prepare(ResidualIdentity(), images()))
    prefix = "_orig_mod." if "_orig_mod" in wrapped._modules else "module."
    state: dict[str, Tensor] = {prefix + name: value for name, value in model.state_dict().items()}
    if wrapper is AveragedModel:
        state["n_averaged"] = torch.tensor(0)
    wrapped.load_state_dict(state)
    assert equal(qatc.float_state_dict(wrapped), model.state_dict())


def test_copies_and_files_know_the_names(tmp_path: Path) -> None:
    gm = qatc.prepare(randomise(SharedConv()), images())
    qatc.save(gm, tmp_path / "model.pt")
    for twin in (copy.deepcopy(gm), pickle.loads(pickle.dumps(gm)), qatc.load(tmp_path / "model.pt")):
        assert equal(qatc.float_state_dict(twin), qatc.float_state_dict(gm))
        twin.load_state_dict(randomise(SharedConv(), seed=1).state_dict())


def test_a_model_that_was_not_prepared_has_no_such_names() -> None:
    with pytest.raises(QatcError, match="a ResidualIdentity has"):
        qatc.float_state_dict(ResidualIdentity())
