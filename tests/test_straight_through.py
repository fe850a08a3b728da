"""The straight-through estimators: what a value that was clipped gets of the gradient."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.errors import ConfigError
from qatc.quantizers import Quantizer, activation_quantizer
from qatc.spec import QuantSpec
from tests.models import SharedConv, images
from tests.quantizer_cases import every_case


@every_case
def test_unmasked_passes_the_gradient_everywhere_and_changes_nothing_else(quantizer: Quantizer, x: Tensor) -> None:
    masked, unmasked = copy.deepcopy(quantizer), copy.deepcopy(quantizer)
    unmasked.ste = "unmasked"
    g = images(*x.shape, seed=9)
    found = []
    for one in (masked, unmasked):
        values = (4 * x).requires_grad_()
        y = one(values)
        (y * g).sum().backward()
        found.append((y.detach(), values.grad, [p.grad for p in one.parameters() if p.grad is not None]))
    (y, _, learned), (other, gradient, others) = found
    assert torch.equal(y, other)
    assert all(torch.equal(a, b) for a, b in zip(learned, others, strict=True))
    if not quantizer.transforms:
        assert gradient is not None
        assert torch.equal(gradient, g)


@pytest.mark.parametrize("name", ["tracked", "lsq", "learned_range", "pact"])
def test_so_it_does_where_a_training_step_moves_the_range(name: str) -> None:
    x, g = images(600, seed=1), images(600, seed=9)
    quantizer = activation_quantizer(name, QuantSpec(4, signed=False), "moving_average:0.01").train()
    quantizer(0.1 * x)  # the range, far below what follows
    for ste, share in (("masked", 0.5), ("unmasked", 0.0)):
        quantizer.ste = ste  # type: ignore[assignment]
        values = x.clone().requires_grad_()
        y = quantizer(values)
        (y * g).sum().backward()
        assert values.grad is not None
        assert float((values.grad == 0).float().mean()) >= share
        assert bool((values.grad == g).all()) == (ste == "unmasked")
        assert len(y.detach().unique()) <= 16


def chosen(model: nn.Module) -> dict[str, str]:
    return {name: module.ste for name, module in model.named_modules() if isinstance(module, Quantizer)}


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_rule_chooses_it_for_weights_and_what_they_read(target: str, tmp_path: Path) -> None:
    config = qatc.QConfig(rules=(qatc.Rule("conv2", ste="unmasked"),))
    torch.manual_seed(0)
    model = nn.Sequential()
    for name in ("conv1", "conv2", "conv3"):
        model.add_module(name, nn.Conv2d(3, 3, 3, padding=1))
        model.add_module(f"{name}_relu", nn.ReLU())
    gm = qatc.prepare(model, images(), target, config)
    unmasked = {name for name, ste in chosen(gm).items() if ste == "unmasked"}
    assert unmasked == {"conv2.weight_quantizer", "conv1_q"}
    qatc.calibrate(gm, [images()], progress=False)
    qatc.save(gm, tmp_path / "model.pt")
    assert chosen(qatc.load(tmp_path / "model.pt")) == chosen(copy.deepcopy(gm)) == chosen(gm)


def test_a_clip_is_not_left_to_a_quantizer_that_would_not_mask_it() -> None:
    """ReLU's gradient is its own, whatever the quantizer behind it does with what it clips."""
    gradients = []
    for ste in ("masked", "unmasked"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
        gm: Any = qatc.prepare(model, images(), config=qatc.QConfig(qatc.LayerConfig(ste=ste)))
        qatc.calibrate(gm, [4 * images()], progress=False)  # nothing is clipped above
        qatc.freeze_ranges(gm)
        gm.train()(images()).square().sum().backward()
        gradients.append(gm.get_submodule("0").weight.grad)
    torch.testing.assert_close(*gradients)


def test_quantizers_made_anew_keep_it() -> None:
    gm = qatc.prepare(SharedConv(), images(), config="nnabla")
    assert set(chosen(gm).values()) == {"unmasked"}
    for module in gm.modules():
        if isinstance(module, Quantizer):
            assert copy.deepcopy(module).ste == "unmasked"
    activation = next(m for n, m in gm.named_modules() if isinstance(m, Quantizer) and n.endswith("_q"))
    assert activation.with_spec(activation.spec).ste == "unmasked"


def test_one_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match="unknown straight-through estimator 'maskd'\n  try: did you mean 'masked'"):
        qatc.LayerConfig(ste="maskd")
