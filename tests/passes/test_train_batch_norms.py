"""The modes in which BatchNorm trains: each against its formula, written out in torch's own ops in float64."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.errors import ConfigError
from qatc.modules.bn_modes import BN_MODES
from qatc.passes import TrainBatchNorms
from qatc.spec import BATCH_NORM_MODES
from tests.check_pass import check_pass, evaluated
from tests.models import ConvBnAct, PreActivation, conv, images, randomise
from tests.prepared import BEFORE_QUANTIZERS, every_target

X = images(5, 3, 8, 8, seed=2).double()


class RoundToSixteenths(torch.autograd.Function):
    """A quantizer with one fixed grid, and the straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (16 * x).round() / 16

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class Sixteenths(nn.Module):
    enabled = acts = True
    follows_channels = False

    def forward(self, x: Tensor, **_: Any) -> Any:
        return RoundToSixteenths.apply(x)


def layer(mode: str, bias: bool = True) -> Any:
    """Return a graph of a convolution and a BatchNorm in float64, its weights on a grid of sixteenths."""
    model = randomise(ConvBnAct(conv(3, 4, bias=bias), nn.BatchNorm2d(4)))
    gm: Any = qatc.prepare(model, images(), config=qatc.QConfig(batch_norm=mode)).double().train()
    gm.conv.weight_quantizer = Sixteenths()
    return gm


def gradients(y: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad((y * images(*y.shape, seed=7)).sum(), tensors, allow_unused=True))


def two_convolutions(gm: Any, w: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """MindSpore's Conv2dBnFoldQuant: conv(x, q(w gamma / sigma_R)) sigma_R / sigma_B + beta - gamma mu / sigma_B."""
    sigma = (gm.bn.running_var + gm.bn.eps).sqrt()
    z = F.conv2d(X, w, gm.conv.bias, padding=1)
    mean, batch_sigma = z.mean((0, 2, 3)), (z.var((0, 2, 3), correction=0) + gm.bn.eps).sqrt()
    bias = 0 if gm.conv.bias is None else gm.conv.bias
    quantized: Any = RoundToSixteenths.apply(w * (gamma / sigma).view(-1, 1, 1, 1))
    o = F.conv2d(X, quantized, padding=1)
    factor, shift = sigma / batch_sigma, beta - gamma * (mean - bias) / batch_sigma
    result: Tensor = o * factor.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)
    return result


def one_convolution(gm: Any, w: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """bn(conv(x, q(w f) / f))."""
    f = (gamma / (gm.bn.running_var + gm.bn.eps).sqrt()).view(-1, 1, 1, 1)
    quantized: Any = RoundToSixteenths.apply(w * f)
    return F.batch_norm(F.conv2d(X, quantized / f, gm.conv.bias, padding=1), None, None, gamma, beta, True)


def straight_through(gm: Any, w: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """The deployed layer's values, the float one's gradient: y + (d - y).detach()."""
    mean, variance = gm.bn.running_mean.clone(), gm.bn.running_var.clone()
    y = F.batch_norm(F.conv2d(X, w, gm.conv.bias, padding=1), mean, variance, gamma, beta, True)
    f = gamma / (variance + gm.bn.eps).sqrt()
    quantized: Any = RoundToSixteenths.apply(w * f.view(-1, 1, 1, 1))
    bias = 0 if gm.conv.bias is None else gm.conv.bias
    deployed = F.conv2d(X, quantized, beta + (bias - mean) * f, padding=1)
    return y + (deployed - y).detach()


FORMULAS = {"batch": one_convolution, "two-convolutions": two_convolutions, "straight-through": straight_through}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("mode", BN_MODES)
def test_values_gradients_and_statistics_are_those_of_the_formula(mode: str, bias: bool) -> None:
    gm = layer(mode, bias)
    parameters = [gm.conv.weight, gm.bn.weight, gm.bn.bias]
    expected = FORMULAS[mode](gm, *parameters)
    wanted = gradients(expected, parameters)
    plain = copy.deepcopy(gm.bn)
    plain(F.conv2d(X, one_weight(gm, mode), gm.conv.bias, padding=1))
    y = gm.conv(X, gm.bn)
    # A BatchNorm's factor is computed in float32 whatever the model's type.
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    for actual, want in zip(gradients(y, parameters), wanted, strict=True):
        torch.testing.assert_close(actual, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))
    torch.testing.assert_close(gm.bn.running_mean, plain.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gm.bn.running_var, plain.running_var, rtol=1e-5, atol=1e-6)
    assert gm.bn.num_batches_tracked == 1


def one_weight(gm: Any, mode: str) -> Tensor:
    """Return the weight whose convolution the statistics are of."""
    weight: Tensor = gm.conv.unfolded_weight(gm.bn) if mode == "batch" else gm.conv.weight
    return weight.detach()


@every_target
@pytest.mark.parametrize("mode", BATCH_NORM_MODES)
def test_the_float_function_stays(mode: str, target: str) -> None:
    """`verify` compares the evaluated function, and a step of training where batch statistics are used."""
    for model in (ConvBnAct(bn=nn.BatchNorm2d(4), act=nn.ReLU()), PreActivation()):
        config = qatc.QConfig(batch_norm=mode)
        gm = qatc.prepare(randomise(model), images(), target, config, verify=True)
        qatc.calibrate(gm, [images()], progress=False)
        gm.train()
        before = copy.deepcopy(gm.state_dict())
        (gm(images(seed=3)) * images(*gm(images()).shape, seed=4)).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in gm.parameters())
        moved = any("running" in name and not torch.equal(v, before[name]) for name, v in gm.state_dict().items())
        assert moved == (mode in BN_MODES)
        assert evaluated(gm, [images()]).isfinite().all()


def test_the_graph_says_which_mode_it_is() -> None:
    model = ConvBnAct(bn=nn.BatchNorm2d(4), act=nn.ReLU())
    check_pass(
        TrainBatchNorms("two-convolutions"),
        model,
        snapshot("""\
-%conv = FusedConv2d(%x, bn=%bn) : f32[N,4,8,8]  k3 p1 act=ReLU  # conv
+%conv = FusedConv2d(%x, bn=%bn) : f32[N,4,8,8]  k3 p1 act=ReLU bn=two-convolutions  # conv
"""),
        before=BEFORE_QUANTIZERS,
    )


def test_a_mode_is_kept_in_copies_and_frozen_is_a_flag() -> None:
    model = randomise(ConvBnAct(bn=nn.BatchNorm2d(4)))
    gm: Any = qatc.prepare(model, images(), config=qatc.QConfig(batch_norm="straight-through"))
    assert copy.deepcopy(gm).conv.bn_mode == "straight-through"
    frozen: Any = qatc.prepare(model, images(), config=qatc.QConfig(batch_norm="frozen"))
    assert (frozen.conv.bn_mode, frozen.conv.bn_frozen) == ("batch", True)


def test_an_unknown_mode_proposes_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'two-convolutions'"):
        qatc.QConfig(batch_norm="two-convolution")
