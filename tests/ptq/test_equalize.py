import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.errors import ConfigError
from qatc.layers import layers_of, output_ranges
from qatc.modules.fused import Fused
from qatc.ptq.equalize import scales
from qatc.quantizers import weight_quantizer
from tests.check_pass import close, evaluated, trained
from tests.models import Classifier, ResidualIdentity, SharedBatchNorm, SharedConv, conv, images, randomise
from tests.prepared import every_target, specs


class Pair(nn.Module):
    """Convolution, BatchNorm, ReLU, pool, convolution: a chain of two."""

    def __init__(self, act: nn.Module | None = None, groups: int = 1) -> None:
        super().__init__()
        self.a, self.bn, self.act = conv(3, 4, bias=False), nn.BatchNorm2d(4), act or nn.ReLU()
        self.pool, self.b = nn.MaxPool2d(2), conv(4, 6, groups=groups)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.pool(self.act(self.bn(self.a(x)))))


class Triple(nn.Module):
    """Pointwise, depthwise, pointwise, as in MobileNet; the middle one without a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.bn, self.relu = conv(3, 6, 1), nn.BatchNorm2d(6), nn.ReLU()
        self.depthwise, self.act, self.b, self.tail = conv(6, 6, groups=6), nn.ReLU(), conv(6, 5, 1), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Any:
        return self.tail(self.b(self.act(self.depthwise(self.relu(self.bn(self.a(x)))))))


class Transposed(nn.Module):
    """Transposed convolutions with groups on either side of a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = conv(3, 4), nn.ConvTranspose2d(4, 6, 2, 2, groups=2)
        self.mid, self.out = conv(6, 4), nn.ConvTranspose2d(4, 2, 2, groups=2)

    def forward(self, x: Tensor) -> Any:
        return self.out(torch.relu(self.mid(torch.relu(self.up(torch.relu(self.stem(x)))))))


class Perceptron(nn.Module):
    """Linear layers with a BatchNorm between, behind a flattened convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.bn, self.b = conv(3, 4), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.pool, self.act = nn.AvgPool2d(2), nn.LeakyReLU(0.1)

    def forward(self, x: Tensor) -> Any:
        y = torch.flatten(self.pool(torch.relu(self.conv(x))), 1)
        return self.b(self.act(self.bn(self.a(y))))


ONE_SCALE = qatc.QConfig(qatc.LayerConfig(per_channel=False))
CHAINS: list[tuple[Callable[[], nn.Module], list[str]]] = [
    (Pair, ["a b"]),
    (lambda: Pair(groups=2), ["a b"]),
    (lambda: Pair(nn.LeakyReLU(0.2)), ["a b"]),
    (Triple, ["a depthwise b"]),
    (Transposed, ["stem up", "up mid", "mid out"]),
    (Perceptron, ["conv a", "a b"]),
    (ResidualIdentity, ["conv1 conv2"]),
]


def per_tensor(model: nn.Module) -> qatc.PreparedModel:
    """Return the model prepared with one scale per weight, its channels far from one another."""
    randomise(model)
    with torch.no_grad():
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.ConvTranspose2d)]
        for module in layers[:-1]:
            if not isinstance(module, nn.ConvTranspose2d):
                module.weight.mul_(
                    torch.exp2(4 * images(len(module.weight), seed=7)).view(-1, *[1] * (module.weight.dim() - 1))
                )
    return qatc.prepare(model, images(), config=ONE_SCALE)


@pytest.mark.parametrize(
    ("kind", "chains"), CHAINS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_the_float_function_stays_in_eval_and_while_training(kind: Callable[[], nn.Module], chains: list[str]) -> None:
    gm = per_tensor(kind()).double()
    before = copy.deepcopy(gm)
    result = qatc.equalize(gm)
    assert [" ".join(chain.layers) for chain in result.chains] == chains
    assert len(chains) > 1 or result.chains[0].after > 1.05 * result.chains[0].before
    x = images().double()
    with qatc.float_mode(gm), qatc.float_mode(before):
        # A BatchNorm's factor is computed in float32, whatever the model's type.
        close(evaluated(gm, [x]), evaluated(before, [x]), "evaluated", 1e-6)
        # Of float64: a few hundred sums, each off by 1e-16.
        close(trained(gm, [x]), trained(before, [x]), "trained", 1e-12)
    for name, buffer in before.named_buffers():
        if "running" in name:
            torch.testing.assert_close(gm.get_buffer(name), buffer, rtol=1e-9, atol=1e-9)


def test_the_ranges_of_a_chain_become_their_root_mean_product() -> None:
    """Of a pair s = sqrt(r1 r2) / r2; of a triple AIMET's r1 / cbrt(r1 r2 r3) and cbrt(r1 r2 r3) / r3."""
    r1, r2, r3 = (
        torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(i)) + 0.1 for i in range(3)
    )
    torch.testing.assert_close(scales([r1, r2])[0], (r1 * r2).sqrt() / r2)
    root = (r1 * r2 * r3) ** (1 / 3)
    first, second = scales([r1, r2, r3])
    torch.testing.assert_close(first, r1 / root)
    torch.testing.assert_close(second, root / r3)
    gm = per_tensor(Triple())
    qatc.equalize(gm)
    a, depthwise, b = layers_of(gm)
    wide = output_ranges(a.module, a.folded().weight)
    torch.testing.assert_close(output_ranges(depthwise.module, depthwise.folded().weight), wide, rtol=3e-3, atol=0)
    torch.testing.assert_close(b.folded().weight.abs().amax((0, 2, 3)), wide, rtol=3e-3, atol=0)


def test_gamma_and_beta_are_scaled_and_the_weight_in_front_stays() -> None:
    gm: Any = per_tensor(Pair())
    weight, gamma = gm.a.weight.clone(), gm.bn.weight.clone()
    qatc.equalize(gm)
    assert torch.equal(gm.a.weight, weight)
    assert not torch.allclose(gm.bn.weight, gamma)


def test_a_dead_channel_is_left() -> None:
    alive, dead = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])
    factor = scales([alive, dead])[0]
    assert factor[1] == 1
    assert factor[0] == 1
    assert scales([alive, torch.tensor([4.0, 1e-9])])[0].tolist() == [0.5, 1.0]


def test_weights_of_one_scale_are_quantized_far_better() -> None:
    """A network whose channels were scaled against one another: the same function, far from equalized."""
    skew = torch.tensor([0.01, 0.1, 1.0, 10.0, 0.03, 30.0])
    noise = []
    for equalized in (False, True):
        gm: Any = qatc.prepare(randomise(Triple()), images(), config=ONE_SCALE)
        with torch.no_grad():
            gm.depthwise.weight.mul_(skew.view(6, 1, 1, 1))
            gm.depthwise.bias.mul_(skew)
            gm.b.weight.div_(skew.view(1, 6, 1, 1))
        with qatc.float_mode(gm):
            expected = evaluated(gm, [images(seed=3)])
        if equalized:
            qatc.equalize(gm)
        qatc.calibrate(gm, [images()], progress=False)
        noise.append(float((evaluated(gm, [images(seed=3)]) - expected).square().mean()))
    assert noise[1] < noise[0] / 100


def test_a_relu6_ends_a_chain_unless_it_may_become_a_relu() -> None:
    gm = per_tensor(Classifier())
    assert qatc.equalize(gm).skipped["conv"] == snapshot("it is clipped at six (replace_relu6=True makes that a ReLU)")
    assert specs(gm)["conv_q"].upper == 6
    result = qatc.equalize(gm, replace_relu6=True)
    assert (result.replaced, specs(gm)["conv_q"].upper) == (("conv",), None)
    other = per_tensor(Classifier(nn.ReLU()))
    with qatc.float_mode(gm), qatc.float_mode(other):
        close(evaluated(gm, [images()]), evaluated(other, [images()]), "the function with a ReLU")


@every_target
@pytest.mark.parametrize("kind", [SharedBatchNorm, SharedConv])
def test_shared_tensors_are_never_scaled(kind: Callable[[], nn.Module], target: str) -> None:
    gm = qatc.prepare(randomise(kind()), images(), target)
    state = {name: value.clone() for name, value in gm.named_parameters()}
    assert not qatc.equalize(gm).chains
    assert all(torch.equal(value, state[name]) for name, value in gm.named_parameters())


def test_what_was_recorded_of_scaled_tensors_is_forgotten_and_learned_steps_begin_anew() -> None:
    gm: Any = qatc.prepare(randomise(Triple()), images(), config="w4a4")
    qatc.calibrate(gm, [images()], progress=False)
    qatc.equalize(gm)
    assert (gm.x_q.ready, gm.a_q.ready, gm.depthwise_q.ready) == (True, False, False)
    module = gm.get_submodule("depthwise")
    assert isinstance(module, Fused)
    quantizer = module.weight_quantizer
    assert quantizer is not None
    fresh = weight_quantizer("lsq", quantizer.spec, module.weight)
    assert torch.equal(quantizer.checked_grid(module.weight).scale, fresh.checked_grid(module.weight).scale)


def test_the_report_of_what_was_done() -> None:
    assert str(qatc.equalize(per_tensor(Perceptron()))) == snapshot("""\
2 chains equalized in 7 sweeps
conv -> a: precision 0.286 -> 0.418
a -> b: precision 0.163 -> 0.171
b: left, no layer reads its result\
""")


def test_a_model_that_is_not_prepared_is_refused() -> None:
    with pytest.raises(ConfigError, match="Pair is not prepared"):
        qatc.equalize(Pair())
