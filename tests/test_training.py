import copy
from typing import Any

import pytest
import torch
from torch import nn

import qatc
from qatc.quantizers import Quantizer
from tests.check_pass import close, evaluated, trained
from tests.models import (
    Classifier,
    ConvBnAct,
    ResidualIdentity,
    conv,
    images,
    randomise,
)
from tests.prepared import every_config, every_target, prepared


@every_config
def test_a_prepared_model_trains_and_every_parameter_gets_a_gradient(config: str) -> None:
    gm = prepared(ResidualIdentity(), config=config).train()
    optimizer = torch.optim.SGD(gm.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = (gm(images()) - 1).square().mean()
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in gm.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_a_gamma_that_begins_at_zero_learns() -> None:
    """As the last BatchNorm of a residual block often does: nothing divides by it, and it must move."""
    model: Any = randomise(ConvBnAct(bn=nn.BatchNorm2d(4)))
    nn.init.zeros_(model.bn.weight)
    gm = prepared_as_it_is(model).train()
    x, y = images(), images(4, 4, 8, 8, seed=3)
    (gm(x) * y).sum().backward()
    (model(x) * y).sum().backward()
    # the input is quantized, so the gradient is the float one but for a step
    torch.testing.assert_close(gm.bn.weight.grad, model.bn.weight.grad, rtol=0.05, atol=0.5)
    torch.testing.assert_close(gm.bn.running_var, model.bn.running_var, rtol=0.01, atol=0.01)
    assert bool(gm.bn.weight.grad.abs().gt(0.1).all())


def prepared_as_it_is(model: nn.Module) -> Any:
    """Return the model prepared and calibrated, its weights as they are."""
    gm = qatc.prepare(model, images())
    qatc.calibrate(gm, [images()], progress=False)
    return gm


def test_training_follows_the_fake_quantized_reference_of_conv_bn_relu() -> None:
    """Fused: bn(conv(x, q(w * f) / f)) with f = gamma / sigma; here written with torch's own layers."""
    model = randomise(ConvBnAct(bn=nn.BatchNorm2d(4), act=nn.ReLU()))
    gm = prepared_as_it_is(model).train()
    bn, weight = copy.deepcopy(gm.bn), gm.conv.weight.detach()
    factor = (bn.weight / (bn.running_var + bn.eps).sqrt()).detach().view(4, 1, 1, 1)
    folded = weight * factor
    scale = folded.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    quantized = (folded / scale).round().clamp(-127, 127) * scale / factor
    x = gm.x_q(images(seed=7))
    expected = bn(torch.nn.functional.conv2d(x, quantized, padding=1)).relu()
    close(gm.conv(x, gm.bn, gm.x_q).detach(), expected.detach(), "output in train()")


@every_config
def test_evaluation_changes_no_state_and_repeats_its_bits(config: str) -> None:
    gm = prepared(ResidualIdentity(), config=config).eval()
    state = copy.deepcopy(gm.state_dict())
    first = gm(images(seed=3)).detach()
    gm(100 * images(seed=4))
    assert torch.equal(gm(images(seed=3)), first)
    assert all(torch.equal(v, state[k]) for k, v in gm.state_dict().items())


@every_target
@every_config
def test_evaluation_on_codes_is_the_one_with_gradients(target: str, config: str) -> None:
    """Under no_grad layers sum integer codes; a sum that ends on a tie may then fall to the next code."""
    gm, x = prepared(ResidualIdentity(), target, config).eval(), images(seed=3)
    with_gradients = gm(x).detach()
    difference = (evaluated(gm, [x]) - with_gradients).abs()
    step = max(float(m.checked_grid(x).scale) for n, m in gm.named_modules() if n.endswith("_q"))
    assert float(difference.max()) <= 2 * step
    assert float((difference > 1e-4).float().mean()) < 0.01


def test_a_frozen_bn_trains_on_folded_and_its_statistics_stay() -> None:
    gm = prepared(ResidualIdentity()).train()
    bn: Any = gm.get_submodule("stem.1")
    qatc.freeze_bn(gm)
    before = copy.deepcopy(bn.state_dict())
    with qatc.float_mode(gm):
        frozen = trained(gm, [images()])
        close(frozen, evaluated(gm, [images()]), "output with frozen BatchNorms")
    assert all(torch.equal(v, before[k]) for k, v in bn.state_dict().items())
    assert bn.weight.grad.abs().sum() > 0
    qatc.freeze_bn(gm, False)
    trained(gm, [images()])
    assert bn.num_batches_tracked == 1


def test_frozen_ranges_stay_while_weights_learn() -> None:
    gm = prepared(Classifier()).train()
    qatc.freeze_ranges(gm)
    ranges = {k: v.clone() for k, v in gm.state_dict().items() if k.endswith("high")}
    gm(5 * images())
    assert all(torch.equal(gm.state_dict()[k], v) for k, v in ranges.items())
    qatc.freeze_ranges(gm, False)
    gm(5 * images())
    assert not any(torch.equal(gm.state_dict()[k], v) for k, v in ranges.items())


def test_float_mode_ends_with_its_block_also_by_an_error() -> None:
    gm = prepared(Classifier()).eval()
    quantized = gm(images())
    with qatc.float_mode(gm):
        assert not torch.equal(gm(images()), quantized)
        with pytest.raises(RuntimeError), qatc.float_mode(gm):
            gm(images(4, 5, 8, 8))
        assert not torch.equal(gm(images()), quantized)
    assert torch.equal(gm(images()), quantized)


@every_config
def test_a_step_under_bfloat16_autocast_keeps_scales_and_statistics_in_float32(config: str) -> None:
    gm = prepared(ResidualIdentity(), config=config).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = gm(images())
    out.float().square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in gm.parameters())
    for module in gm.modules():
        if isinstance(module, Quantizer):
            grid = module.grid(torch.ones(4, 4, 3, 3), None, None)
            assert (grid.scale.dtype, grid.zero_point.dtype) == (torch.float32, torch.float32)
    assert {b.dtype for b in gm.buffers() if b.is_floating_point()} == {torch.float32}


@every_config
def test_weight_and_bias_deploy_on_their_grids(config: str) -> None:
    """The bias on float32(scale of the input * scale of the weight), as every integer kernel adds it."""
    gm: Any = prepared(ConvBnAct(bn=nn.BatchNorm2d(4)), config=config).eval()
    weight, bias = gm.conv.deployed(gm.conv.fold(gm.bn), gm.x_q)
    folded = gm.conv.fold(gm.bn)
    grid = gm.conv.weight_quantizer.checked_grid(folded.weight, folded.gain)
    codes = weight / grid.scale.view(4, 1, 1, 1)
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
    step = grid.scale * gm.x_q.checked_grid(images()).scale
    torch.testing.assert_close(bias, (folded.bias / step).round() * step)
    assert bool((bias - folded.bias).abs().gt(0).any())


def test_a_channel_of_tiny_weights_keeps_its_bias_within_32_bits() -> None:
    model: Any = randomise(ConvBnAct(conv(3, 4)))
    with torch.no_grad():
        model.conv.weight[0] *= 1e-15
        model.conv.bias.fill_(100.0)
    gm = prepared_as_it_is(model).eval()
    _, bias = gm.conv.deployed(gm.conv.fold(None), gm.x_q)
    torch.testing.assert_close(bias, model.conv.bias, rtol=1e-3, atol=0)
    close(evaluated(gm, [images()]), evaluated(model, [images()]), "output", 0.02)
