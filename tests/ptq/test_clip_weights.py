from typing import Any

import pytest
import torch
from inline_snapshot import snapshot
from torch import nn

import qatc
from tests.check_pass import evaluated
from tests.models import ConvBnAct, SharedConv, conv, images, randomise


def outlying(value: float, bn: nn.Module | None = None) -> Any:
    """Return a prepared layer with magnitudes of one but for a single weight; a BatchNorm doubles them when folded."""
    model: Any = randomise(ConvBnAct(conv(3, 4), bn, nn.ReLU()))
    with torch.no_grad():
        model.conv.weight.copy_(torch.where(images(4, 3, 3, 3) > 0, 1.0, -1.0))
        model.conv.weight[1, 2, 0, 1] = value
        if bn is not None:
            model.bn.weight.copy_((model.bn.running_var + model.bn.eps).sqrt() * torch.tensor([2.0, -2.0, 2.0, 2.0]))
    return qatc.prepare(model, images())


def test_an_outlier_is_clipped_at_120_128ths_of_the_power_of_two_above_16_medians() -> None:
    gm = outlying(-100.0)
    weight = gm.conv.weight.clone()
    (clipped,) = qatc.clip_weights(gm)
    assert (clipped.layer, clipped.count, clipped.limit, clipped.reached) == ("conv", 1, 15.0, 100.0)
    weight[1, 2, 0, 1] = -15.0  # 16 * 1 is a power of two
    torch.testing.assert_close(gm.conv.weight, weight)
    assert str(clipped) == snapshot("conv: 1 weights of up to 100 clipped at 15")
    assert qatc.clip_weights(gm) == ()


@pytest.mark.parametrize("value", [14.9, 16.0])
def test_what_is_within_15_or_16_medians_is_left(value: float) -> None:
    gm = outlying(value)
    state = gm.conv.weight.clone()
    assert qatc.clip_weights(gm) == ()
    assert torch.equal(gm.conv.weight, state)


def test_the_folded_weight_is_what_counts() -> None:
    gm = outlying(40.0, nn.BatchNorm2d(4))
    (clipped,) = qatc.clip_weights(gm)
    assert (clipped.limit, round(clipped.reached)) == (30.0, 80)  # its BatchNorm doubles all
    torch.testing.assert_close(gm.conv.weight[1, 2, 0, 1], torch.tensor(15.0))


def test_the_range_is_given_back_to_the_other_weights() -> None:
    config = qatc.QConfig(qatc.LayerConfig(per_channel=False))
    noise = []
    for clip in (False, True):
        gm: Any = qatc.prepare(outlying_float(), images(), config=config)
        others = gm.conv.weight.detach().abs() < 10
        if clip:
            qatc.clip_weights(gm)
        qatc.calibrate(gm, [images()], progress=False)
        module: Any = gm.conv
        weight = module.weight.detach()
        noise.append(float((module.weight_quantizer(weight) - weight)[others].square().mean()))
    assert noise[1] < noise[0] / 50


def outlying_float() -> Any:
    model: Any = randomise(ConvBnAct())
    with torch.no_grad():
        model.conv.weight[0, 0, 0, 0] = 100.0
    return model


def test_shared_weights_are_left() -> None:
    model: Any = randomise(SharedConv())
    with torch.no_grad():
        model.conv.weight[0, 0, 0, 0] = 1000.0
    gm = qatc.prepare(model, images())
    assert qatc.clip_weights(gm) == ()
    assert evaluated(gm, [images()]).isfinite().all()
