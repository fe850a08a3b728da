"""A schedule goes on where it was, wherever a model's state is taken."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.modules.fused import Fused
from qatc.quantizers import Quantizer
from qatc.schedule.state import NAME, state_of
from tests.models import ResidualIdentity, images, randomise

SCHEDULE = qatc.Schedule(wait=1, record=3, delay=4, clamp=6, freeze_bn=7, freeze_ranges=8, lr_scale=0.3)
STEPS = 9


def fresh(config: str) -> Any:
    torch.manual_seed(0)
    gm = qatc.prepare(randomise(ResidualIdentity()), images(), config=config).train()
    return gm, torch.optim.SGD(gm.parameters(), lr=0.05, momentum=0.9)


def losses(gm: nn.Module, optimizer: Any, running: Any, until: int) -> list[float]:
    found = []
    while running.count < until:
        optimizer.zero_grad()
        loss = (gm(images(seed=running.count)) - 1).square().mean()
        loss.backward()
        optimizer.step()
        running.step()
        found.append(float(loss.detach()))
    return found


def stages(gm: nn.Module) -> list[Any]:
    """Return what the schedule sets in each module."""
    return [
        (m.stage, m.observing) if isinstance(m, Quantizer) else m.bn_frozen
        for m in gm.modules()
        if isinstance(m, Quantizer | Fused)
    ]


@pytest.mark.parametrize("config", ["w8a8", "w4a4"])
@pytest.mark.parametrize("start_first", [True, False], ids=["start then load", "load then start"])
def test_losses_after_a_resume_are_those_of_a_run_without_one(config: str, start_first: bool) -> None:
    gm, optimizer = fresh(config)
    running = SCHEDULE.start(gm, optimizer)
    states, whole = [], []
    for until in range(1, STEPS + 1):
        states.append((copy.deepcopy(gm.state_dict()), copy.deepcopy(optimizer.state_dict())))
        whole += losses(gm, optimizer, running, until)
    for made, (model_state, optimizer_state) in enumerate(states):
        again, optimizer = fresh(config)
        early = SCHEDULE.start(again, optimizer) if start_first else None
        again.load_state_dict(model_state)
        optimizer.load_state_dict(optimizer_state)
        running = early or SCHEDULE.start(again, optimizer)
        assert running.count == made
        assert losses(again, optimizer, running, STEPS) == whole[made:], f"resumed at step {made}"


def saved(gm: Any, tmp_path: Path) -> Any:
    qatc.save(gm, tmp_path / "model.pt")
    return qatc.load(tmp_path / "model.pt")


COPIES: dict[str, Callable[[Any, Path], Any]] = {
    "deepcopy": lambda gm, _: copy.deepcopy(gm),
    "pickle": lambda gm, _: pickle.loads(pickle.dumps(gm)),
    "qatc.save": saved,
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_goes_on_from_the_step_of_the_original(copied: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    gm, optimizer = fresh("w4a4")
    running = SCHEDULE.start(gm, optimizer)
    losses(gm, optimizer, running, 5)
    twin = copied(gm, tmp_path)
    assert stages(twin) == stages(gm)
    losses(gm, optimizer, running, STEPS)
    assert stages(twin) != stages(gm)
    twin_optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    going_on = SCHEDULE.start(twin.train(), twin_optimizer)
    assert (going_on.count, going_on.stage) == (5, "clamp")
    losses(twin, twin_optimizer, going_on, STEPS)
    assert stages(twin) == stages(gm)
    assert SCHEDULE.start(twin, twin_optimizer, restart=True).count == 0
    assert int(twin.get_submodule(NAME).step) == 0


def averaged_by_torch(gm: Any) -> Any:
    ema = torch.optim.swa_utils.AveragedModel(gm)
    return ema, ema.update_parameters


def averaged_by_state(gm: Any) -> Any:
    """As timm's ModelEma: a deep copy whose state_dict's tensors are written one by one."""
    ema = copy.deepcopy(gm).eval()

    def update(model: nn.Module) -> None:
        for own, new in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
            own.copy_(new)

    return ema, update


@pytest.mark.parametrize("average", [averaged_by_torch, averaged_by_state])
@pytest.mark.parametrize("evaluated_before", [True, False])
def test_an_average_is_in_the_stage_of_what_it_averages(average: Callable[[Any], Any], evaluated_before: bool) -> None:
    gm, optimizer = fresh("w8a8")
    running = SCHEDULE.start(gm, optimizer)
    ema, update = average(gm)
    for until in range(1, STEPS + 1):
        losses(gm, optimizer, running, until)
        update(gm)
        if evaluated_before or until == STEPS:
            ema.eval()(images())
            assert stages(ema) == stages(gm), until


def test_the_float_state_loads_and_moves_no_step() -> None:
    gm, optimizer = fresh("w8a8")
    running = SCHEDULE.start(gm, optimizer)
    losses(gm, optimizer, running, 5)
    result = gm.load_state_dict(ResidualIdentity().state_dict(), strict=False)
    assert not result.unexpected_keys
    assert running.count == 5


def test_a_state_without_a_schedule_loads_into_a_model_with_one() -> None:
    gm, _ = fresh("w8a8")
    state = {name: value for name, value in gm.state_dict().items() if NAME not in name}
    gm.load_state_dict(state)
    assert NAME + ".step" in gm.state_dict()


def test_a_step_reads_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that would wait for the device."""
    gm, optimizer = fresh("w8a8")
    running = qatc.Schedule(delay=2).start(gm, optimizer)
    losses(gm, optimizer, running, 4)

    def read(tensor: Tensor) -> Any:
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("qatc.native.takes", lambda x, axis=None: False)
    for name in ("item", "__int__", "__float__", "__bool__", "tolist", "__index__"):
        monkeypatch.setattr(Tensor, name, read)
    gm(images())
    for _ in range(3):
        running.step()
    assert running.count == 7


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own doing
def test_one_model_compiles_whole_in_every_stage() -> None:
    gm, optimizer = fresh("w8a8")
    running = qatc.Schedule(record=1, delay=2).start(gm, optimizer)
    compiled = torch.compile(gm, backend="eager", fullgraph=True)
    for _ in range(3):
        expected = copy.deepcopy(gm)(images())
        torch.testing.assert_close(compiled(images()), expected, rtol=0, atol=0)
        running.step()
    state = state_of(gm)
    assert state is not None
    assert state.count() == 3
