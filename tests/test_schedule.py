"""What a schedule does at each step; tests/test_schedule_resume.py: that it goes on wherever a model is copied to."""

import copy
import logging
from typing import Any

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.errors import ConfigError
from qatc.modules.fused import Fused
from qatc.quantizers import ACTIVATION_QUANTIZERS, LSQ, WeightLSQ, activation_quantizer
from qatc.quantizers.lsq import OCTAVES
from qatc.recording import quantizers
from qatc.schedule import Plan
from qatc.spec import QuantSpec
from tests.check_pass import close
from tests.models import Classifier, ResidualIdentity, images, randomise


def trained_steps(gm: nn.Module, running: Any, steps: int, optimizer: Any = None) -> list[str]:
    """Train that many steps; return the stage of each."""
    optimizer = torch.optim.SGD(gm.parameters(), lr=0.05) if optimizer is None else optimizer
    stages = []
    for _ in range(steps):
        stages.append(running.stage)
        optimizer.zero_grad()
        gm(images(seed=running.count)).square().mean().backward()
        optimizer.step()
        running.step()
    return stages


@pytest.mark.parametrize(
    ("schedule", "run", "plan"),
    [
        (qatc.Schedule(), {}, Plan()),
        (qatc.Schedule(record=100, delay=300), {}, Plan(0, 100, 300, 300)),
        (qatc.Schedule(delay=5), {}, Plan(0, 0, 5, 5)),
        (qatc.Schedule(clamp=0.5), {"total": 30}, Plan(clamp=15)),
        (qatc.Schedule(wait="1 epoch", record="2 epochs"), {"steps_per_epoch": 7}, Plan(7, 14, 14, 14)),
        (qatc.Schedule(record=0.1, delay="25 %"), {"steps_per_epoch": 10, "epochs": 4}, Plan(0, 4, 10, 10)),
        (
            qatc.Schedule(freeze_bn="50 % - 1 epoch", freeze_ranges="50% + 1.5epochs"),
            {"steps_per_epoch": 10, "epochs": 6},
            Plan(freeze_bn=20, freeze_ranges=45),
        ),
        (qatc.Schedule(freeze_bn="10 % - 99 steps"), {"total": 10}, Plan(freeze_bn=0)),
        (qatc.Schedule(freeze_bn=1.0, lr_scale=0.1), {"total": 9}, Plan(freeze_bn=9, lr_scale=0.1)),
    ],
)
def test_a_schedule_in_steps(schedule: qatc.Schedule, run: dict[str, int], plan: Plan) -> None:
    assert schedule.plan(**run) == plan


@pytest.mark.parametrize(
    ("settings", "run", "message"),
    [
        (
            {"record": 200, "delay": 100},
            {},
            snapshot("""\
delay ends at 100, before record does, at 200
  try: the stages of a run are, in order: wait, record, delay, clamp; each is given by where it ends\
"""),
        ),
        (
            {"record": 200, "delay": "1 epoch"},
            {"steps_per_epoch": 100},
            snapshot("""\
delay ends at 100, before record does, at 200
  try: the stages of a run are, in order: wait, record, delay, clamp; each is given by where it ends\
"""),
        ),
        (
            {"delay": 0.1},
            {},
            snapshot("""\
delay is a share of the run
  try: give total_steps, or epochs and steps_per_epoch\
"""),
        ),
        (
            {"delay": "2 epochs"},
            {"total": 100},
            snapshot("""\
delay is in epochs
  try: give steps_per_epoch, as len(loader)\
"""),
        ),
        (
            {"freeze_bn": 101},
            {"total": 100},
            snapshot("""\
freeze_bn (101) is step 101 of a run of 100
  try: make freeze_bn earlier, or the run longer\
"""),
        ),
        (
            {"record": 1.5},
            {},
            snapshot("""\
record is 1.5, no point of a run
  try: write 500 (steps), 0.1 (of the run), '2 epochs', '500 steps', '10 %', or a sum: '50 % - 1 epoch'\
"""),
        ),
        (
            {"record": -1},
            {},
            snapshot("""\
record is -1, no point of a run
  try: write 500 (steps), 0.1 (of the run), '2 epochs', '500 steps', '10 %', or a sum: '50 % - 1 epoch'\
"""),
        ),
        (
            {"record": "2 weeks"},
            {},
            snapshot("""\
record is '2 weeks', no point of a run
  try: write 500 (steps), 0.1 (of the run), '2 epochs', '500 steps', '10 %', or a sum: '50 % - 1 epoch'\
"""),
        ),
        (
            {"record": "2 epochs 3 steps"},
            {},
            snapshot("""\
record is '2 epochs 3 steps', no point of a run
  try: write 500 (steps), 0.1 (of the run), '2 epochs', '500 steps', '10 %', or a sum: '50 % - 1 epoch'\
"""),
        ),
        (
            {"record": ""},
            {},
            snapshot("""\
record is '', no point of a run
  try: write 500 (steps), 0.1 (of the run), '2 epochs', '500 steps', '10 %', or a sum: '50 % - 1 epoch'\
"""),
        ),
        (
            {"record": True},
            {},
            snapshot("""\
record is True, not a whole number or a number or a text
  try: it may be: a point of the run, as `500`, `0.1`, `2 epochs`\
"""),
        ),
        (
            {"lr_scale": 0.0},
            {},
            snapshot("""\
lr_scale is 0.0
  try: give a positive factor, as 0.1\
"""),
        ),
        (
            {},
            {"epochs": 0},
            snapshot("""\
epochs is 0
  try: a run has at least one step\
"""),
        ),
    ],
)
def test_what_means_nothing_is_refused(settings: dict[str, Any], run: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        qatc.Schedule(**settings).plan(**run)
    assert str(caught.value) == message


def test_a_schedule_needs_a_prepared_model_and_an_optimizer_to_scale() -> None:
    with pytest.raises(ConfigError, match="no prepared model in the Linear"):
        qatc.Schedule().start(nn.Linear(2, 2))
    gm = qatc.prepare(randomise(Classifier()), images())
    with pytest.raises(ConfigError, match=r"lr_scale is 0.1, of no optimizer"):
        qatc.Schedule(lr_scale=0.1).start(gm)


@pytest.mark.parametrize("config", ["w8a8", "w4a4"])
def test_each_stage_does_what_it_says(config: str) -> None:
    model = randomise(ResidualIdentity())
    gm = qatc.prepare(model, images(), config=config).train()
    running = qatc.Schedule(wait=1, record=3, delay=5, clamp=6).start(gm)
    x = images(seed=99)
    outputs = []
    for step, stage in enumerate(["float", "record", "record", "follow", "follow", "clamp", "quantize"]):
        assert (running.count, running.stage) == (step, stage)
        ready = [q.ready for name, q in quantizers(gm) if name.endswith("_q")]
        assert all(ready) if step >= 3 or (config == "w8a8" and step == 2) else not any(ready), stage
        before = copy.deepcopy(gm.state_dict())
        with torch.no_grad():
            outputs.append(gm.eval()(x))
        assert not moved(before, gm), "an evaluation moved something"
        gm.train()(images(seed=step))
        ranges = [name for name in moved(before, gm) if "_q." in name]
        # A step that is learned has no range to follow the data.
        assert bool(ranges) == (stage != "float" and (config == "w8a8" or stage == "record")), (stage, ranges)
        running.step()
    for step in range(1, 5):
        close(outputs[step], outputs[0], f"at step {step} it computes in float", 0.2)  # but for its BatchNorms
    close(outputs[0], model.eval()(x).detach(), "output of the float model")
    assert not torch.equal(outputs[5], outputs[6])


def moved(before: dict[str, Tensor], gm: nn.Module) -> list[str]:
    """Return the names of what is not as it was."""
    now = gm.state_dict()
    same = {k for k in now.keys() & before.keys() if torch.equal(now[k].nan_to_num(9e9), before[k].nan_to_num(9e9))}
    return [k for k in now if k not in same]


def test_values_are_clamped_but_not_rounded() -> None:
    x = torch.linspace(-3, 3, 101, requires_grad=True)
    quantizer = activation_quantizer("tracked", QuantSpec(4))
    quantizer(torch.tensor([-1.0, 1.0]))
    quantizer.observing = False
    quantizer.stage = "clamp"
    grid = quantizer.checked_grid(x)
    y = quantizer(x)
    y.sum().backward()
    low, high = -8 * float(grid.scale), 7 * float(grid.scale)
    torch.testing.assert_close(y, x.detach().clamp(low, high), rtol=0, atol=0)
    assert x.grad is not None
    assert torch.equal(x.grad, ((x >= low) & (x <= high)).float())


def test_a_learned_end_learns_while_values_are_clamped() -> None:
    """As in PACT (arXiv:1805.06085, equation 2): its gradient is that of what lies beyond it."""
    quantizer = activation_quantizer("lsq", QuantSpec(4, signed=False))
    quantizer(torch.rand(50))
    assert isinstance(quantizer, LSQ)
    quantizer.stage = "clamp"
    x = torch.linspace(0, 3, 31)
    quantizer(x).sum().backward()
    end = 15 * quantizer.step().detach()
    expected = float((x > end).sum() * end) * OCTAVES * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(quantizer.log_scale.grad, expected.view(1), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["tracked", "lsq"])
def test_weights_begin_from_what_they_are_when_quantization_begins(name: str) -> None:
    """The steps were first set from the weights that prepare was given."""
    for per_channel in (True, False):
        layer = qatc.LayerConfig(weight_quantizer=name, per_channel=per_channel)
        gm: Any = qatc.prepare(randomise(ResidualIdentity()), images(), config=qatc.QConfig(layer)).train()
        running = qatc.Schedule(delay=1).start(gm)
        with torch.no_grad():
            for module in gm.modules():
                if isinstance(module, Fused):
                    module.weight.mul_(3)
        gm(images())
        running.step()
        again = qatc.prepare(randomise_like(gm), images(), config=qatc.QConfig(layer))
        scales = [m.log_scale for m in gm.modules() if isinstance(m, WeightLSQ)]
        wanted = [m.log_scale for m in again.modules() if isinstance(m, WeightLSQ)]
        torch.testing.assert_close(scales, wanted, rtol=0, atol=0)


def randomise_like(gm: nn.Module) -> nn.Module:
    """Return the float model with this one's weights and statistics."""
    model = ResidualIdentity()
    model.load_state_dict(gm.state_dict(), strict=False)
    return model.eval()


@pytest.mark.filterwarnings("ignore:training began without:qatc.errors.QatcWarning")  # fixed ranges
@pytest.mark.parametrize("stage", ["float", "record", "follow", "clamp", "quantize"])
@pytest.mark.parametrize("name", [*ACTIVATION_QUANTIZERS])
def test_what_learns_gets_a_gradient_in_every_stage(name: str, stage: Any) -> None:
    """DistributedDataParallel stops at the second step where a parameter got none in the first."""
    quantizer = activation_quantizer(name, QuantSpec(4))
    if stage in ("clamp", "quantize"):
        quantizer(images())
    quantizer.stage = stage
    x = images().requires_grad_()
    y = quantizer(x)
    y.sum().backward()
    assert all(p.grad is not None for p in quantizer.parameters())
    if stage in ("float", "record", "follow"):
        assert torch.equal(y, x)
        assert x.grad is not None
        assert bool((x.grad == 1).all())
        assert all(bool((p.grad == 0).all()) for p in quantizer.parameters())  # type: ignore[union-attr]


def test_freezes_happen_at_their_steps_and_what_is_not_scheduled_is_left_alone() -> None:
    gm = qatc.prepare(randomise(ResidualIdentity()), images()).train()
    running = qatc.Schedule(freeze_bn=1, freeze_ranges=2).start(gm)
    seen = []
    for _ in range(3):
        fused = {m.bn_frozen for m in gm.modules() if isinstance(m, Fused)}
        observing = {q.observing for _, q in quantizers(gm)}
        seen.append((fused, observing))
        running.step()
    assert seen == [({False}, {True}), ({True}, {True}), ({True}, {False})]
    qatc.freeze_bn(gm, False)
    running = qatc.Schedule(delay=9, freeze_ranges=9).start(gm)
    qatc.freeze_bn(gm)
    trained_steps(gm, running, 7)
    assert {m.bn_frozen for m in gm.modules() if isinstance(m, Fused)} == {True}


def rates(scheduler_of: Any, scale: float) -> list[float]:
    """Return the rate at which each of six steps was made, by how far a weight of gradient 1 moved."""
    gm = qatc.prepare(Classifier(), images())
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = scheduler_of(optimizer)
    running = qatc.Schedule(delay=2, lr_scale=scale).start(gm, optimizer)
    running = qatc.Schedule(delay=2, lr_scale=scale).start(gm, optimizer)  # started twice, scaled once
    found = []
    for _ in range(6):
        before = float(weight.detach())
        weight.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        running.step()
        found.append(before - float(weight.detach()))
    return found


@pytest.mark.parametrize(
    "scheduler_of",
    [
        lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0),
        lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5),  # from the rate before
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1.0 / (1 + step)),  # from its base
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=7),
    ],
    ids=["constant", "exponential", "lambda", "one-cycle"],
)
def test_the_learning_rate_is_scaled_once_whoever_sets_it(scheduler_of: Any) -> None:
    plain, scaled = rates(scheduler_of, 1.0), rates(scheduler_of, 0.25)
    assert scaled == pytest.approx([*plain[:2], *(0.25 * rate for rate in plain[2:])], rel=1e-5)


def test_a_step_that_raised_leaves_the_learning_rate() -> None:
    gm = qatc.prepare(randomise(Classifier()), images())
    optimizer = torch.optim.SGD(gm.parameters(), lr=1.0)
    qatc.Schedule(lr_scale=0.5).start(gm, optimizer)

    def fail() -> float:
        raise ValueError("no loss")

    for _ in range(2):
        with pytest.raises(ValueError, match="no loss"):
            optimizer.step(fail)
        assert optimizer.param_groups[0]["lr"] == 0.5
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 1.0


def test_stages_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    gm = qatc.prepare(randomise(Classifier()), images()).train()
    caplog.set_level(logging.INFO, "qatc")
    caplog.clear()
    assert trained_steps(gm, qatc.Schedule(record=1, delay=3).start(gm), 4) == [
        "record",
        "follow",
        "follow",
        "quantize",
    ]
    assert [r.getMessage() for r in caplog.records] == [
        "schedule: record at step 0",
        "schedule: follow from step 1 on",
        "schedule: quantize from step 3 on",
    ]


def test_a_schedule_moves_a_model_inside_others() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = qatc.prepare(randomise(Classifier()), images())
            self.other = qatc.prepare(randomise(Classifier()), images())

    two = Two()
    running = qatc.Schedule(delay=1).start(two)
    assert {q.stage for _, q in quantizers(two)} == {"follow"}
    running.step()
    assert {q.stage for _, q in quantizers(two)} == {"quantize"}
