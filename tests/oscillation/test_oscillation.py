import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.errors import ConfigError
from qatc.layers import layers_of
from qatc.oscillation import Tracker
from tests.models import ConvBnAct, ResidualIdentity, SharedConv, images, randomise
from tests.prepared import prepared
from tests.waits import Waits

W3 = qatc.QConfig(qatc.LayerConfig(weight_bits=3))


def test_frequency_and_freezing_follow_the_papers_formulas_weight_by_weight() -> None:
    """Written out with numbers, step by step, as algorithm 1 has it."""
    rows = torch.randint(-1, 2, (60, 8), generator=torch.Generator().manual_seed(0))
    rows[:, 0] = torch.arange(60) % 2  # oscillates at every step but the first
    rows[:, 1] = torch.arange(60)  # moves one way
    momentum, threshold = 0.1, 0.3
    tracker = Tracker(rows[0])
    code, direction = rows[0].tolist(), [0] * 8
    frequency, mean, frozen = [0.0] * 8, [float(c) for c in rows[0]], [False] * 8
    for row in rows[1:]:
        tracker.update(row, momentum, threshold)
        for i, new in enumerate(row.tolist()):
            new = mean[i] if frozen[i] else new
            sign = (new > code[i]) - (new < code[i])
            oscillated = sign != 0 and direction[i] != 0 and sign != direction[i]
            frequency[i] = momentum * oscillated + (1 - momentum) * frequency[i]
            direction[i] = sign or direction[i]
            code[i] = new
            if frequency[i] > threshold and not frozen[i]:
                frozen[i], mean[i] = True, float(round(mean[i]))
            if not frozen[i]:
                mean[i] = momentum * new + (1 - momentum) * mean[i]
    assert tracker.frozen.tolist() == frozen
    assert frozen[0]
    assert not frozen[1]
    torch.testing.assert_close(tracker.frequency, torch.tensor(frequency))
    torch.testing.assert_close(tracker.mean, torch.tensor(mean))
    assert tracker.code.tolist() == [int(c) for c in code]


@pytest.mark.parametrize("quantizer", ["tracked", "lsq"])
def test_dampening_is_the_papers_loss_and_has_its_gradient(quantizer: str) -> None:
    config = qatc.QConfig(qatc.LayerConfig(weight_bits=3, weight_quantizer=quantizer))
    gm: Any = qatc.prepare(randomise(ConvBnAct()), images(), config=config)
    oscillation = qatc.Oscillation(gm)
    loss = oscillation.dampening()
    loss.backward()
    weight = gm.conv.weight.detach().double().requires_grad_()
    grid = gm.conv.weight_quantizer.grid(gm.conv.weight.detach(), None, None)
    scale = grid.scale.detach().double().view(-1, 1, 1, 1)
    low, high = scale * gm.conv.weight_quantizer.spec.qmin, scale * 3
    quantized = ((weight / scale).round().clamp(gm.conv.weight_quantizer.spec.qmin, 3) * scale).detach()
    expected = (quantized - weight.clamp(low, high)).square().sum()
    expected.backward()
    # float32 codes and scales
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(gm.conv.weight.grad.double(), weight.grad, rtol=1e-4, atol=1e-6)
    if quantizer == "lsq":
        assert gm.conv.weight_quantizer.log_scale.grad is None


def test_with_a_batch_norm_it_is_the_folded_weight_that_counts() -> None:
    gm: Any = qatc.prepare(randomise(ConvBnAct(bn=nn.BatchNorm2d(4))), images(), config=W3)
    folded = gm.conv.fold(gm.bn).weight
    quantized = gm.conv.weight_quantizer(folded).detach()
    expected = (quantized - folded).square().sum()
    torch.testing.assert_close(qatc.Oscillation(gm).dampening(), expected)


def toy() -> Any:
    """Return a 3-bit network whose weights have optima between codes."""
    torch.manual_seed(0)
    gm = qatc.prepare(randomise(nn.Sequential(nn.Flatten(), nn.Linear(12, 6))), images(8, 3, 2, 2), config=W3)
    qatc.calibrate(gm, [images(64, 3, 2, 2)], progress=False)
    return gm.train()


def flips(steps: int, freeze_above: float | None, dampening: float = 0.0) -> tuple[int, Any, Any]:
    """Train and return how often a code changed in the last 100 steps."""
    gm: Any = toy()
    x = images(64, 3, 2, 2)
    target = x.flatten(1) @ images(12, 6, seed=9) / 3
    optimizer = torch.optim.SGD(gm.parameters(), lr=0.02)
    oscillation = qatc.Oscillation(gm, momentum=0.02)
    (layer,) = layers_of(gm)
    tracker: Any = oscillation.trackers.get_submodule(layer.name)
    count = 0
    for step in range(steps):
        oscillation.freeze_above = freeze_above if step > steps // 3 else None
        optimizer.zero_grad()
        loss = (gm(x) - target).square().mean() + dampening * oscillation.dampening()
        loss.backward()
        optimizer.step()
        old = tracker.code.clone()
        oscillation.step()
        if step >= steps - 100:
            count += int((tracker.code != old).sum())
    return count, oscillation, gm


def test_freezing_and_dampening_reduce_flips() -> None:
    alone, watching, _ = flips(400, None)
    frozen, freezing, _ = flips(400, 0.04)
    dampened, _, _ = flips(400, None, dampening=1.0)
    assert alone > 20
    assert frozen < alone / 4
    assert dampened < alone / 4
    assert watching.report()[0].oscillating > 0
    assert watching.report()[0].frozen == 0
    assert freezing.report()[0].frozen > 0


def test_a_frozen_weight_keeps_its_code_whatever_the_optimizer_does() -> None:
    for model in (ConvBnAct(), ConvBnAct(bn=nn.BatchNorm2d(4))):
        gm: Any = qatc.prepare(randomise(model), images(), config=W3)
        qatc.calibrate(gm, [images()], progress=False)
        gm.train()
        oscillation: Any = qatc.Oscillation(gm)
        tracker = oscillation.trackers.conv
        tracker.frozen[:, 1] = True
        tracker.mean[:, 1] = tracker.mean[:, 1].round()
        before = tracker.code.clone()
        optimizer = torch.optim.SGD(gm.parameters(), lr=0.5)
        for step in range(5):
            optimizer.zero_grad()
            (gm(images(seed=step)) - images(4, 4, 8, 8, seed=9)).square().mean().backward()
            optimizer.step()
            oscillation.step()
        sign = 1 if model.bn is None else gm.bn.weight.sign().view(-1, 1, 1, 1)
        folded = gm.conv.fold(gm.bn if model.bn is not None else None)
        codes = gm.conv.weight_quantizer.codes(folded.weight.detach(), folded.gain) * sign
        assert torch.equal(codes[:, 1], before[:, 1].float())
        assert not torch.equal(codes, before.float())


def test_training_resumes_as_if_it_had_gone_on() -> None:
    def train(gm: Any, oscillation: Any, steps: range) -> Tensor:
        optimizer = torch.optim.SGD(gm.parameters(), lr=0.05)
        x = images(64, 3, 2, 2)
        for _ in steps:
            optimizer.zero_grad()
            (gm(x) - 1).square().mean().backward()
            optimizer.step()
            oscillation.step()
        result: Tensor = gm.get_submodule("1").weight.detach()
        return result

    gm = toy()
    oscillation = qatc.Oscillation(gm, momentum=0.2, freeze_above=0.2)
    train(gm, oscillation, range(20))
    resumed = toy()
    resumed.load_state_dict(copy.deepcopy(gm.state_dict()))
    again = qatc.Oscillation(resumed, momentum=0.2, freeze_above=0.2)
    again.load_state_dict(copy.deepcopy(oscillation.state_dict()))
    assert torch.equal(train(resumed, again, range(20)), train(gm, oscillation, range(20)))
    for name, value in oscillation.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_no_step_waits_for_the_device() -> None:
    gm: Any = qatc.prepare(randomise(ConvBnAct(bn=nn.BatchNorm2d(4))), images(), config=W3)
    oscillation = qatc.Oscillation(gm, freeze_above=0.1)
    with Waits() as waits:
        oscillation.step()
        oscillation.dampening().backward()
    assert not waits.found
    with waits:
        oscillation.report()
    assert waits.found  # so the mode does see it


def test_what_cannot_be_watched_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at most 4 bits"):
        qatc.Oscillation(prepared(ResidualIdentity()))
    assert qatc.Oscillation(prepared(ResidualIdentity()), most_bits=8).report()
    with pytest.raises(ConfigError, match="momentum of 0"):
        qatc.Oscillation(prepared(ResidualIdentity()), momentum=0, most_bits=8)
    shared = qatc.Oscillation(prepared(SharedConv()), most_bits=8)
    assert [row.layer for row in shared.report()] == ["stem"]
