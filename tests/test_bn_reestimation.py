import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.errors import CalibrationError, ConfigError
from qatc.modules.batch_norms import FrozenBatchNorm
from tests.models import Classifier, ConvBnAct, PreActivation, SharedBatchNorm, images, randomise
from tests.prepared import prepared

BATCHES = [images(6, 3, 8, 8, seed=seed) for seed in (3, 4, 5)]


def statistics(batches: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the means over batches of each one's mean and unbiased variance, per channel."""
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches])
    variances = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in batches])
    return means.mean(0), variances.mean(0)


@pytest.mark.parametrize("config", ["w8a8", "w4a4"])
def test_statistics_are_the_means_of_those_of_each_batch_of_the_quantized_convolution(config: str) -> None:
    gm: Any = prepared(ConvBnAct(bn=nn.BatchNorm2d(4), act=nn.ReLU()), config=config)
    # Per channel and with free scales, so the quantized weight over its factor does not depend on the statistics.
    weight = gm.conv.unfolded_weight(gm.bn).detach()
    with torch.no_grad():
        outputs = [torch.nn.functional.conv2d(gm.x_q.eval()(batch), weight, padding=1) for batch in BATCHES]
    done = qatc.reestimate_bn(gm, BATCHES, progress=False)
    assert len(done) == 1
    mean, variance = statistics(outputs)
    # float32 sums of a few hundred values
    torch.testing.assert_close(gm.bn.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gm.bn.running_var, variance, rtol=1e-4, atol=1e-5)


def test_a_batch_norm_alone_sees_its_own_input() -> None:
    gm: Any = prepared(PreActivation())
    with torch.no_grad():
        mean, variance = statistics([gm.x_q.eval()(batch) for batch in BATCHES])
    qatc.reestimate_bn(gm, BATCHES, progress=False)
    torch.testing.assert_close(gm.bn1.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gm.bn1.running_var, variance, rtol=1e-4, atol=1e-5)


def test_a_batch_norm_of_two_calls_takes_the_mean_over_both() -> None:
    gm: Any = prepared(SharedBatchNorm())
    seen: list[Tensor] = []
    gm.bn.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    qatc.reestimate_bn(gm, BATCHES, progress=False)
    assert len(seen) == 6
    torch.testing.assert_close(gm.bn.running_mean, statistics(seen)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_nothing_but_the_statistics_changes_and_undo_takes_it_back(frozen: bool) -> None:
    gm: Any = prepared(PreActivation(), config="w4a4").train()
    gm.bn2.eval()
    gm.bn2.momentum = 0.3
    qatc.freeze_bn(gm, frozen)
    before = copy.deepcopy(gm.state_dict())
    flags = [(m.training, getattr(m, "bn_frozen", None), getattr(m, "momentum", None)) for m in gm.modules()]
    done = qatc.reestimate_bn(gm, BATCHES, steps=2, progress=False)
    assert [(m.training, getattr(m, "bn_frozen", None), getattr(m, "momentum", None)) for m in gm.modules()] == flags
    moved = {name for name, value in gm.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {f"{bn}.running_{what}" for bn in ("bn1", "bn2") for what in ("mean", "var")}
    done.undo()
    assert all(torch.equal(value, before[name]) for name, value in gm.state_dict().items())


def test_a_batch_that_fails_leaves_everything_as_it_was() -> None:
    gm: Any = prepared(PreActivation()).train()
    before = copy.deepcopy(gm.state_dict())
    with pytest.raises(RuntimeError):
        qatc.reestimate_bn(gm, [BATCHES[0], images(2, 5, 8, 8)], progress=False)
    assert all(torch.equal(value, before[name]) for name, value in gm.state_dict().items())
    assert gm.training
    assert gm.bn1.momentum == 0.1


def test_one_that_never_uses_batch_statistics_is_left() -> None:
    model = ConvBnAct(bn=nn.BatchNorm2d(4))
    randomise(model)
    frozen = FrozenBatchNorm(4)
    frozen.load_state_dict(model.bn.state_dict())  # type: ignore[union-attr]
    model.bn = frozen
    gm = prepared(model)
    with pytest.raises(ConfigError, match="no BatchNorm"):
        qatc.reestimate_bn(gm, BATCHES, progress=False)


def test_without_batch_norms_or_batches_it_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no BatchNorm with running statistics"):
        qatc.reestimate_bn(prepared(Classifier()), BATCHES, progress=False)
    with pytest.raises(CalibrationError, match="no batch"):
        qatc.reestimate_bn(prepared(PreActivation()), [], progress=False)
