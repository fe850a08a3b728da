"""Scales over a training run: what is kept, in how much space, and that it comes back."""

import pytest
import torch

import qatc
from qatc.errors import ConfigError
from qatc.layers import layers_of
from qatc.prepared import PreparedModel
from tests.debugging.networks import Residual, batches, fixed, ready
from tests.models import images, randomise
from tests.waits import Waits


def trained(gm: PreparedModel, history: qatc.ScaleHistory, steps: int) -> list[float]:
    """Train, and return the scale of the input's quantizer after each step."""
    optimizer = torch.optim.SGD(gm.parameters(), 0.01)
    seen = []
    gm.train()
    for step in range(steps):
        gm(images(8, 3, 6, 6, seed=step) * (1 + step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        history.step()
        seen.append(float(gm.get_submodule("x_q").grid(torch.empty(0), None, None).scale))  # type: ignore[operator]
    return seen


def test_it_keeps_the_scale_after_each_step() -> None:
    gm = qatc.prepare(randomise(Residual()), batches()[0])
    history = qatc.ScaleHistory(gm)
    seen = trained(gm, history, 5)
    curves = history.curves()
    assert [step for step, _ in curves["x_q"]] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [scale for _, scale in curves["x_q"]] == pytest.approx(seen)
    assert seen[0] < seen[-1]
    assert {"stem.weight_quantizer", "head.weight_quantizer", "mean_q"} <= set(curves)


def test_a_weights_scale_is_the_mean_over_its_channels() -> None:
    gm = ready(fixed())
    history = qatc.ScaleHistory(gm)
    history.step()
    layer = next(layer for layer in layers_of(gm) if layer.name == "a")
    highest = layer.folded().weight.detach().abs().flatten(1).amax(1)
    ((_, scale),) = history.curves()["a.weight_quantizer"]
    assert scale == pytest.approx(float((highest / 127).mean()), rel=1e-4)


def test_its_space_is_bounded_and_spans_the_whole_run() -> None:
    history = qatc.ScaleHistory(ready(fixed()), points=8)
    size = history.scales.numel()
    for step in range(100):
        history.step()
        points = [at for at, _ in history.curves()["x_q"]]
        assert points[0] == 0
        assert len(points) <= 8
        assert step - points[-1] < history.every
    assert history.scales.numel() == size
    assert points == [16.0 * i for i in range(7)]


def test_the_scales_kept_are_those_of_their_steps_when_rows_are_dropped() -> None:
    gm = ready(fixed())
    history = qatc.ScaleHistory(gm, points=4)
    with torch.no_grad():
        for step in range(40):
            gm.get_submodule("x_q").high.fill_(100.0 * (step + 1))  # type: ignore[operator]
            gm.get_submodule("x_q").low.fill_(0.0)  # type: ignore[operator]
            history.step()
    curve = history.curves()["x_q"]
    assert [at for at, _ in curve] == [0.0, 16.0, 32.0]
    assert all(scale == pytest.approx(100 * (at + 1) / 255, rel=1e-2) for at, scale in curve)


CONFIGS = {"w8a8": "w8a8", "w4a4": "w4a4", "pow2": "w8a8-pow2", "fixed": fixed(bits=4)}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_no_step_waits_for_the_device(config: str | qatc.QConfig) -> None:
    gm = qatc.prepare(randomise(Residual()).eval(), batches()[0], config=config)
    qatc.calibrate(gm, batches(), progress=False)
    history = qatc.ScaleHistory(gm, points=2)
    with Waits() as waits:
        for _ in range(5):
            history.step()
    assert not waits.found


def test_it_is_saved_and_goes_on() -> None:
    whole, first = (qatc.ScaleHistory(ready(fixed()), points=4) for _ in range(2))
    for _ in range(11):
        whole.step()
    for _ in range(6):
        first.step()
    resumed = qatc.ScaleHistory(ready(fixed()), points=4)
    resumed.load_state_dict(first.state_dict())
    for _ in range(5):
        resumed.step()
    assert resumed.curves() == whole.curves()


def test_before_there_is_a_range_there_is_no_point() -> None:
    gm = qatc.prepare(randomise(Residual()), batches()[0])
    history = qatc.ScaleHistory(gm)
    history.step()
    assert history.curves()["x_q"] == ()
    qatc.calibrate(gm, batches(), progress=False)
    history.step()
    assert [at for at, _ in history.curves()["x_q"]] == [1.0]


def test_a_report_has_its_curves() -> None:
    gm = ready(fixed())
    history = qatc.ScaleHistory(gm)
    history.step()
    report = qatc.debug(gm, batches(), history=history, progress=False)
    assert all(len(row.scales) == 1 for row in report.rows)
    (point,) = history.curves()["a.weight_quantizer"]
    assert report.measured()["a"].curves == {"scale": (point,)}


@pytest.mark.parametrize("wrong", [{"every": 0}, {"points": 3}, {"points": 0}])
def test_numbers_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        qatc.ScaleHistory(ready(fixed()), **wrong)
