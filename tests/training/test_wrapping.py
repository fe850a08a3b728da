"""What training scripts put around a model: averages of its weights, the compiler, mixed precision, copies."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import qatc
from qatc.quantizers import Quantizer, Tracked
from qatc.recording import quantizers
from tests.check_pass import evaluated
from tests.models import ConvBnAct, ResidualIdentity, images
from tests.prepared import every_config, prepared
from tools.models import torchvision_models


def steps(gm: nn.Module, count: int = 3, after: Any = lambda: None, rate: float = 1e-3) -> None:
    optimizer = torch.optim.SGD(gm.parameters(), rate)
    for step in range(count):
        optimizer.zero_grad()
        gm.train()(images(seed=20 + step)).square().mean().backward()
        optimizer.step()
        after()


def timms_average(gm: nn.Module, decay: float) -> Any:
    torchvision_models()  # which timm imports
    from timm.utils import ModelEmaV3  # noqa: PLC0415

    return ModelEmaV3(gm, decay=decay)


def torchs_average(gm: nn.Module, decay: float, use_buffers: bool) -> Any:
    return AveragedModel(gm, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=use_buffers)


AVERAGES = {
    "torch": lambda gm, decay: torchs_average(gm, decay, use_buffers=False),
    "torch, buffers too": lambda gm, decay: torchs_average(gm, decay, use_buffers=True),
    "timm": timms_average,
}
every_average = pytest.mark.parametrize("kind", AVERAGES)


def update(average: Any, gm: nn.Module) -> None:
    (average.update_parameters if isinstance(average, AveragedModel) else average.update)(gm)


@every_average
@every_config
def test_an_average_of_weights_evaluates_on_grids_of_its_own(config: str, kind: str) -> None:
    gm = prepared(ResidualIdentity(), config=config)
    average = AVERAGES[kind](gm, 0.5)
    steps(gm, after=lambda: update(average, gm))
    x = images(seed=3)
    inner = average.module.eval()
    assert all(m.ready for m in inner.modules() if isinstance(m, Quantizer))
    for name, quantizer in quantizers(gm):
        ours = inner.get_submodule(name)
        assert isinstance(ours, Quantizer)
        if isinstance(quantizer, Tracked):
            assert isinstance(ours, Tracked)
            torch.testing.assert_close(ours.recorded(), quantizer.recorded(), rtol=0.1, atol=0.05)
        for own, theirs in zip(ours.parameters(recurse=False), quantizer.parameters(recurse=False), strict=True):
            torch.testing.assert_close(own, theirs, rtol=0.1, atol=0.02)
    for module in inner.modules():
        if isinstance(module, Quantizer) and module.spec.pow2:
            scale = module.checked_grid(torch.ones(4, 4, 3, 3)).scale
            assert torch.equal(torch.frexp(scale).mantissa, torch.full_like(scale, 0.5))
    # three small steps apart: what evaluates is a quantized model near the trained one
    reference = evaluated(gm.eval(), [x])
    close = (evaluated(inner, [x]) - reference).abs().mean() / reference.abs().mean()
    assert 0 < float(close) < 0.3


@pytest.mark.parametrize("use_buffers", [True, False])
def test_an_average_made_before_any_range_is_known_learns_them_too(use_buffers: bool) -> None:
    """torch's begins with a copy at its first update; timm's copies when it is made, so make it after `calibrate`."""
    gm = qatc.prepare(ResidualIdentity(), images())
    average = torchs_average(gm, 0.5, use_buffers)
    steps(gm, after=lambda: update(average, gm))
    assert all(m.ready for m in average.module.modules() if isinstance(m, Quantizer))


# torch's own, where it looks into an autograd function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("config", ["w8a8", "w4a4-pow2"])
def test_the_compiler_takes_the_model_whole(config: str, mode: str) -> None:
    """One graph, no break; the values and the state are those of the model as it is."""
    gm = prepared(ConvBnAct(bn=nn.BatchNorm2d(4), act=nn.ReLU()), config=config)
    gm.train(mode == "train")
    plain = copy.deepcopy(gm)
    torch.compiler.reset()
    counters.clear()
    compiled: Any = torch.compile(gm, fullgraph=True, backend="aot_eager")
    for seed in (3, 4):
        ours, theirs = (m(images(seed=seed)) for m in (compiled, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        if mode == "train":
            for out in (ours, theirs):
                (out * images(4, 4, 8, 8, seed=9)).sum().backward()
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(gm.state_dict()[name], value, rtol=1e-6, atol=1e-6)
    if mode == "train":
        for (name, p), q in zip(gm.named_parameters(), plain.parameters(), strict=True):
            assert p.grad is not None
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-5, msg=name)


@every_config
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scaled_gradients_in_low_precision_train_and_overflow_leaves_everything(
    dtype: torch.dtype, config: str
) -> None:
    gm = prepared(ResidualIdentity(), config=config).train()
    optimizer = torch.optim.SGD(gm.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    losses = []
    for step in range(6):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            out = gm(images(seed=20))
            assert out.dtype == dtype
            loss = (out.float() - 1).square().mean()
        if step == 2:
            loss = loss * torch.inf
        before = {name: p.detach().clone() for name, p in gm.named_parameters()}
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss.detach()))
        moved = [not torch.equal(p, before[name]) for name, p in gm.named_parameters()]
        assert any(moved) == (step != 2)
    assert scaler.get_scale() == 2.0**9
    assert losses[-1] < losses[0]
    for value in (*gm.parameters(), *gm.buffers()):
        assert bool(torch.isfinite(value).all())
        assert value.dtype in (torch.float32, torch.int64)


def test_a_copy_and_a_pickle_train_on_as_the_model_does() -> None:
    gm = prepared(ResidualIdentity(), config="w4a4")
    steps(gm)
    twins: list[Any] = [copy.deepcopy(gm), copy.deepcopy(AveragedModel(gm)).module]
    steps(gm)
    for twin in twins:
        steps(twin)
        assert all(torch.equal(value, gm.state_dict()[name]) for name, value in twin.state_dict().items())
