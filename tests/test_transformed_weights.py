"""Weights that are made into something else before they lie on a grid: SAT, ternary, binary; against their formulas."""

import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.errors import ConfigError
from qatc.quantizers import Binary, Ternary, WeightSAT, activation_quantizer, weight_quantizer
from qatc.spec import QuantSpec
from tests.models import ConvBnAct, images, randomise

SPEC = QuantSpec(4, axis=0, narrow=True)


def sat(w: Tensor, bits: int, *, scaled: bool, clamp: bool = False) -> Tensor:
    """N2D2's SAT weight, mode Symmetric, in float64; maximum and variance are constants, round's gradient is 1."""
    r = 2 ** (bits - 1) - 1
    t = torch.tanh(w)
    t = t / t.abs().max().detach()
    q = t if clamp else t + ((r * t).round() / r - t).detach()
    if scaled:
        fan_out = w.shape[0] * w[0, 0].numel()
        q = q / (fan_out * q.detach().var()).sqrt()
    return q


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (5, 20)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_sat_without_a_batch_norm_is_scaled_by_its_variance(bits: int, shape: tuple[int, ...], clamp: bool) -> None:
    w, g = images(*shape).requires_grad_(), images(*shape, seed=1)
    quantizer = weight_quantizer("sat", QuantSpec(bits, axis=0, narrow=True), w)
    quantizer.stage = "clamp" if clamp else "quantize"
    y = quantizer(w)
    (y * g).sum().backward()
    wide = w.detach().double().requires_grad_()
    expected = sat(wide, bits, scaled=True, clamp=clamp)
    (expected * g.double()).sum().backward()
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6, check_dtype=False)
    torch.testing.assert_close(w.grad, wide.grad, rtol=1e-5, atol=1e-6, check_dtype=False)


def test_sat_has_n2d2s_gradient() -> None:
    """dW = dQ sech^2(W) / (max|tanh W| scale)."""
    w, g = images(5, 20).requires_grad_(), images(5, 20, seed=1)
    quantizer = weight_quantizer("sat", SPEC, w)
    y = quantizer(w)
    (y * g).sum().backward()
    q = sat(w.detach(), 4, scaled=False)
    scale = (5 * q.var()).sqrt()
    expected = g / torch.cosh(w.detach()).square() / (torch.tanh(w.detach()).abs().max() * scale)
    torch.testing.assert_close(w.grad, expected, rtol=1e-5, atol=1e-6)


def test_sat_of_a_folded_weight_is_that_of_the_weight_before() -> None:
    w, factor = images(6, 4, 3, 3), torch.tensor([0.5, -2.0, 1.0, 3.0, -0.1, 0.0])
    shaped = factor.view(-1, 1, 1, 1)
    folded = (w * shaped).requires_grad_()
    quantizer = weight_quantizer("sat", SPEC, w)
    y = quantizer(folded, gain=factor.abs())
    live = factor != 0
    expected = sat(w[live], 4, scaled=False) * shaped[live]
    assert torch.tanh(w[live]).abs().max() == torch.tanh(w).abs().max()
    torch.testing.assert_close(y[live], expected, rtol=1e-5, atol=1e-6)
    assert not y[~live].any()
    y.sum().backward()
    assert folded.grad is not None
    assert bool(folded.grad.isfinite().all())


def n2d2(w: Tensor, mode: str, bits: int, *, clamp: bool = False) -> Tensor:
    """N2D2's SAT weight in its other modes, in float64; the maximum is a constant, round's gradient is 1."""
    r = (1 << bits) - 1
    t = torch.tanh(w)
    t = t / t.abs().max().detach()

    def rint(x: Tensor) -> Tensor:
        return x + (x.round() - x).detach()

    if mode == "sat_asymmetric":
        half = r // 2
        shifted = (1 + 1 / (2 * half)) * t - 1 / (2 * half)
        return shifted if clamp else rint(half * shifted) / half
    if clamp:
        return t
    u = (t + 1) / 2 if mode == "sat_default" else (1 + 0.9998 / r) * (t + 1) / 2 - 0.4999 / r
    return 2 * rint(r * u) / r - 1


MODES = [
    ("sat_asymmetric", 2),
    ("sat_asymmetric", 7),
    *((f"sat_{m}", b) for m in ("default", "full_range") for b in (1, 4, 7)),
]


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(("mode", "bits"), MODES)
def test_n2d2s_other_modes(mode: str, bits: int, folded: bool, clamp: bool) -> None:
    w, g = images(6, 4, 3, 3).requires_grad_(), images(6, 4, 3, 3, seed=1)
    quantizer = weight_quantizer(mode, QuantSpec(bits, axis=0, narrow=True), w)
    quantizer.stage = "clamp" if clamp else "quantize"
    gain = torch.rand(6, generator=torch.Generator().manual_seed(0)) + 0.5 if folded else None
    factor = torch.ones(()) if gain is None else gain.view(-1, 1, 1, 1)
    y = quantizer(w * factor, gain=gain)
    (y * g).sum().backward()
    wide = w.detach().double().requires_grad_()
    q = n2d2(wide, mode, bits, clamp=clamp)
    expected = q * factor if folded else q / (6 * 9 * q.detach().var()).sqrt()
    (expected * g.double()).sum().backward()
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6, check_dtype=False)
    torch.testing.assert_close(w.grad, wide.grad, rtol=1e-5, atol=1e-5, check_dtype=False)


def test_modes_without_zero_take_a_bit_more_and_odd_codes() -> None:
    w = images(64, 40)
    codes = {
        name: weight_quantizer(name, SPEC, w).codes(w).unique().tolist() for name in ("sat_default", "sat_full_range")
    }
    assert codes["sat_default"] == codes["sat_full_range"] == list(range(-15, 16, 2))
    assert weight_quantizer("sat_asymmetric", SPEC, w).codes(w).unique().tolist() == list(range(-8, 8))
    gm = qatc.prepare(
        randomise(ConvBnAct()), images(), config=qatc.QConfig(qatc.LayerConfig(4, weight_quantizer="sat_default"))
    )
    assert str(gm.get_submodule("conv.weight_quantizer").spec) == "s5/ch0"
    with pytest.raises(ConfigError, match="'sat_default' is not for 8 bits"):
        weight_quantizer("sat_default", QuantSpec(8), w)


def test_weights_through_tanh_are_neither_equalized_nor_frozen() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    config = qatc.QConfig(qatc.LayerConfig(4), (qatc.Rule("2", weight_quantizer="sat"),))
    gm = qatc.prepare(model, images(), config=config)
    done = qatc.equalize(gm)
    assert not done.chains
    assert done.skipped["0"] == "the weights of 2 go through tanh, which takes no factor"
    assert done.skipped["2"] == "its weights go through tanh, which takes no factor"
    with pytest.raises(ConfigError, match=r"cannot be frozen (.|\n)*at: 2 (.|\n)*dampening"):
        qatc.Oscillation(gm, freeze_above=0.02)
    watched = qatc.Oscillation(gm)
    watched.step()
    assert float(watched.dampening().detach()) > 0
    watched.freeze_above = 0.02
    with pytest.raises(ConfigError, match="cannot be frozen"):
        watched.step()


def test_sat_in_front_of_a_batch_norm_wants_a_scale_per_channel() -> None:
    config = qatc.QConfig(qatc.LayerConfig(weight_quantizer="sat", per_channel=False))
    with pytest.raises(ConfigError, match="'sat' in front of a BatchNorm needs a scale per channel\n  at: conv"):
        qatc.prepare(randomise(ConvBnAct(bn=nn.BatchNorm2d(4))), images(), config=config)
    assert qatc.prepare(randomise(ConvBnAct()), images(), config=config)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_binary_weights_are_signs_times_the_mean_magnitude(axis: int | None) -> None:
    w, g = images(6, 4, 3, 3).requires_grad_(), images(6, 4, 3, 3, seed=1)
    quantizer = weight_quantizer("binary", QuantSpec(1, axis=axis, narrow=True), w)
    assert isinstance(quantizer, Binary)
    dims = [d for d in range(4) if d != axis]
    y = quantizer(w)
    torch.testing.assert_close(y, w.sign() * w.abs().mean(dims, keepdim=True))
    assert sorted(quantizer.codes(w).unique().tolist()) == [-1, 1]
    (y * g).sum().backward()
    assert w.grad is not None
    assert torch.equal(w.grad, g)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_ternary_weights_are_zero_below_seven_tenths_of_the_mean_magnitude(axis: int | None) -> None:
    w, g = images(6, 4, 3, 3).requires_grad_(), images(6, 4, 3, 3, seed=1)
    quantizer = weight_quantizer("ternary", QuantSpec(2, axis=axis, narrow=True), w)
    assert isinstance(quantizer, Ternary)
    dims = [d for d in range(4) if d != axis]
    beyond = w.abs() > 0.7 * w.abs().mean(dims, keepdim=True)
    alpha = (w.abs() * beyond).sum(dims, keepdim=True) / beyond.sum(dims, keepdim=True)
    y = quantizer(w)
    torch.testing.assert_close(y, w.sign() * beyond * alpha)
    assert sorted(quantizer.codes(w).unique().tolist()) == [-1, 0, 1]
    (y * g).sum().backward()
    assert w.grad is not None
    assert torch.equal(w.grad, g)


@pytest.mark.parametrize("name", ["binary", "ternary"])
def test_codes_do_not_depend_on_the_scale_that_the_file_asks_for(name: str) -> None:
    w = images(6, 4, 3, 3)
    spec = QuantSpec(1 if name == "binary" else 2, axis=0, narrow=True)
    free = weight_quantizer(name, spec, w)
    pow2 = weight_quantizer(name, QuantSpec(spec.bits, axis=0, narrow=True, pow2="up"), w)
    assert torch.equal(free.codes(w), pow2.codes(w))
    assert torch.equal(free.codes(w), free.codes(w, floor=torch.full((6,), 100.0)))


def test_a_width_that_a_quantizer_is_not_for_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError) as caught:
        weight_quantizer("lsq", QuantSpec(1), images(4))
    assert (
        str(caught.value)
        == "the quantizer 'lsq' is not for 1 bit\n  try: take 'sat_default', 'sat_full_range', 'binary'"
    )
    with pytest.raises(ConfigError, match="'binary' is not for 8 bits\n  try: take 'tracked', 'fixed', "):
        weight_quantizer("binary", QuantSpec(8), images(4))
    with pytest.raises(ConfigError, match="ask for 2 bits or more"):
        activation_quantizer("lsq", QuantSpec(1, signed=False))


@pytest.mark.parametrize(("name", "bits"), [("sat", 4), ("sat_default", 4), ("binary", 1), ("ternary", 2)])
def test_a_range_estimator_is_refused_where_none_is_used(name: str, bits: int) -> None:
    with pytest.raises(ConfigError, match="leave weight_range out"):
        weight_quantizer(name, QuantSpec(bits), images(4), "mse")


@pytest.mark.parametrize("stage", ["quantize", "clamp"])
def test_calibration_sees_the_weights_that_will_run(stage: str) -> None:
    w = images(6, 4, 3, 3)
    quantizer = WeightSAT.of(SPEC, w).eval()
    quantizer.stage = stage  # type: ignore[assignment]
    quantizer.recording = True
    torch.testing.assert_close(quantizer(w), sat(w, 4, scaled=False, clamp=True) * quantizer._factor(w, None))
    quantizer.stage = "record"
    assert quantizer(w) is w
