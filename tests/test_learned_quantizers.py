"""The gradients of quantizers that learn, against autograd of their published forms in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from qatc.quantizers import (
    LSQ,
    CGPact,
    LearnedRange,
    LSQPlus,
    Pact,
    Quantizer,
    WeightLearnedRange,
    WeightLSQ,
    weight_quantizer,
)
from qatc.quantizers.lsq import OCTAVES
from qatc.quantizers.ranged import margin
from qatc.ranges import Range
from qatc.spec import Pow2, QuantSpec
from tests.models import images
from tests.quantizer_cases import broadcast, calibrated

UNSIGNED, ASYMMETRIC = QuantSpec(4, signed=False), QuantSpec(4, signed=False, symmetric=False)


def rounded(x: Tensor) -> Tensor:
    """round(x), with the gradient 1."""
    return x + (x.round() - x).detach()


def began(made: type[Quantizer], spec: QuantSpec, low: float, high: float) -> Quantizer:
    """A quantizer in training that starts from a range."""
    quantizer = made(spec).train()
    quantizer.start(Range(torch.tensor(low), torch.tensor(high)))
    quantizer.observing = False
    return quantizer


def agree(quantizer: Quantizer, x: Tensor, plain: Callable[..., Tensor], names: list[str]) -> None:
    """Compare values and gradients of x and of the named parameters with those of a plain form in float64."""
    x = x.clone().requires_grad_()
    factor = images(*x.shape, seed=1)
    y = quantizer(x)
    (y * factor).sum().backward()
    learned = [getattr(quantizer, name) for name in names]
    assert {id(p) for p in learned} == {id(p) for p in quantizer.parameters()}
    wide = x.detach().double().requires_grad_()
    twins = [broadcast(p.detach().double(), x, quantizer.spec.axis).requires_grad_() for p in learned]
    expected = plain(wide, *twins)
    (expected * factor.double()).sum().backward()
    # A value that lies on a tie in one precision may round the other way in the other: none does here.
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5, check_dtype=False)
    # float32 sums of 300 terms
    torch.testing.assert_close(x.grad, wide.grad, rtol=1e-5, atol=1e-6, check_dtype=False)
    for parameter, twin in zip(learned, twins, strict=True):
        assert twin.grad is not None
        torch.testing.assert_close(
            parameter.grad, twin.grad.view_as(parameter), rtol=1e-4, atol=1e-4, check_dtype=False
        )


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [(ASYMMETRIC, -0.8, 1.3), (QuantSpec(3, symmetric=False), -1.1, 0.4), (QuantSpec(8, symmetric=False), -0.2, 0.9)],
)
def test_learned_range_differentiates_scale_and_zero_point(spec: QuantSpec, low: float, high: float) -> None:
    levels = spec.qmax - spec.qmin

    def plain(x: Tensor, m: Tensor, big: Tensor) -> Tensor:
        scale = (big - m) / levels
        zero = rounded(m / scale)
        return (torch.clamp(rounded(x / scale) - zero, 0, levels) + zero) * scale

    # Values half a step beyond an end round back to it in AIMET's v2 form, but count as clipped in its v1 gradient.
    x = images(6, 50)
    quantizer = began(LearnedRange, spec, low, high)
    scale, zero_point = quantizer.checked_grid(x)
    steps = x / scale + zero_point
    x = torch.where((steps - steps.clamp(spec.qmin, spec.qmax)).abs() <= 0.5, 0.3 * x, x)
    agree(quantizer, x, plain, ["low", "high"])


def test_learned_range_has_aimets_gradients() -> None:
    """dm = -G/N + M N/(M-m)^2 H and dM = G/N - m N/(M-m)^2 H (AIMET v1), for ends that lie on the grid exactly."""
    quantizer = began(LearnedRange, ASYMMETRIC, -0.5, 1.375)
    assert isinstance(quantizer, LearnedRange)
    assert quantizer.low is not None
    with torch.no_grad():  # without the margin: m / scale = -4 needs no rounding
        quantizer.low.fill_(-0.5)
        quantizer.high.fill_(1.375)
    x, g = images(300), images(300, seed=1)
    (quantizer(x) * g).sum().backward()
    levels, low, high = 15, -0.5, 1.375
    step = (high - low) / levels
    k = (x >= low) & (x <= high)
    q = torch.round(x / step).clamp(low / step, high / step)
    first, second = (g * (q - k * x / step)).sum(), (g * step * ~k).sum()
    share = levels / (high - low) ** 2
    torch.testing.assert_close(quantizer.low.grad, (-first / levels + high * share * second).view(1))
    torch.testing.assert_close(quantizer.high.grad, (first / levels - low * share * second).view(1))


@pytest.mark.parametrize("axis", [None, 0])
def test_learned_range_of_a_weight_learns_one_amplitude(axis: int | None) -> None:
    spec, w = QuantSpec(4, axis=axis, narrow=True), images(6, 50)
    quantizer = weight_quantizer("learned_range", spec, w)
    assert isinstance(quantizer, WeightLearnedRange)
    torch.testing.assert_close(quantizer.high.detach(), w.abs().amax(1) if axis == 0 else w.abs().amax().view(1))
    with torch.no_grad():
        quantizer.high.mul_(0.6)

    def plain(x: Tensor, high: Tensor) -> Tensor:
        ratio = torch.clamp(x / (high / 7), -7, 7)
        return rounded(ratio) * (high / 7)

    agree(quantizer, w, plain, ["high"])


@pytest.mark.parametrize("made", [LearnedRange, Pact, CGPact])
@pytest.mark.parametrize(
    "spec", [ASYMMETRIC, QuantSpec(4), UNSIGNED, QuantSpec(4, symmetric=False, pow2="up")], ids=str
)
@pytest.mark.parametrize("rate", [-1e4, -1.0, 1.0, 1e4])
def test_a_learned_range_stays_ordered_finite_and_around_zero(
    made: type[LearnedRange], spec: QuantSpec, rate: float
) -> None:
    quantizer = began(made, spec, -1.0, 2.0)
    assert isinstance(quantizer, LearnedRange)
    x = images(40)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=abs(rate), maximize=rate < 0)
    for _ in range(10):
        optimizer.zero_grad()
        quantizer(x).square().sum().backward()
        optimizer.step()
        low, high = (end.detach() for end in quantizer.ends())
        assert float(low) <= 0 <= float(high) < math.inf
        scale, zero_point = quantizer.checked_grid(x)
        assert 0 < float(scale) < math.inf
        assert spec.qmin <= float(zero_point) <= spec.qmax
        assert bool(torch.isfinite(quantizer(x)).all())


def test_an_end_that_left_its_side_of_zero_comes_back() -> None:
    quantizer = began(LearnedRange, ASYMMETRIC, -1.0, 2.0)
    assert isinstance(quantizer, LearnedRange)
    assert quantizer.low is not None
    with torch.no_grad():
        quantizer.low.fill_(0.1)
    x = torch.tensor([-1.0, 0.5])
    assert float(quantizer(x).detach()[0]) == 0.0
    (quantizer(x) - x).square().sum().backward()
    assert quantizer.low.grad is not None
    assert float(quantizer.low.grad) > 0  # a step against it goes down


@pytest.mark.parametrize("spec", [ASYMMETRIC, QuantSpec(3, symmetric=False)], ids=str)
def test_lsq_plus_learns_step_and_offset(spec: QuantSpec) -> None:
    """Against y = round(clip((x - beta) / s)) s + beta in its integer form: beta's zero point is whole."""
    x = images(6, 50)
    quantizer = began(LSQPlus, spec, -0.9, 1.1)
    share = 1.0 / math.sqrt(x.numel() * spec.qmax)

    def scaled(value: Tensor) -> Tensor:
        return value * share + (value * (1 - share)).detach()

    def plain(x: Tensor, log: Tensor, beta: Tensor) -> Tensor:
        step = scaled(torch.exp2(OCTAVES * log))
        zero = rounded(-scaled(beta) / step)
        return rounded(torch.minimum(torch.maximum(x / step, spec.qmin - zero), spec.qmax - zero)) * step

    agree(quantizer, x, plain, ["log_scale", "offset"])


def test_lsq_plus_has_the_papers_gradients() -> None:
    """Equations 6 and 8, for an offset on the grid: ds = clipped code, or round(v) - v; dbeta = 1 where clipped."""
    quantizer = began(LSQPlus, ASYMMETRIC, -1.0, 2.75)
    assert isinstance(quantizer, LSQPlus)
    assert quantizer.offset is not None
    step, beta = 0.25, -1.0
    assert float(quantizer.step().detach()) == step
    assert float(quantizer.offset.detach()) == beta
    x, g = 2 * images(300), images(300, seed=1)
    (quantizer(x) * g).sum().backward()
    v = (x - beta) / step
    clipped = (v < 0) | (v > 15)
    slope = torch.where(clipped, v.clamp(0, 15), v.round() - v)
    share = 1.0 / math.sqrt(300 * 15)
    expected = (g * slope).sum() * share * step * OCTAVES * math.log(2)  # the parameter is a logarithm of the step
    torch.testing.assert_close(quantizer.log_scale.grad, expected.view(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quantizer.offset.grad, ((g * clipped).sum() * share).view(1))


@pytest.mark.parametrize("rounding", ["up", "round"])
@pytest.mark.parametrize("made", [LSQ, LSQPlus])
def test_a_power_of_two_learns_its_exponent(made: type[Quantizer], rounding: Pow2) -> None:
    """Against s = 2^round(p), the rounding's gradient as 1 (TQT); a symmetric grid."""
    spec = QuantSpec(4, pow2=rounding)
    x = images(6, 50)
    quantizer = began(made, spec, -0.9, 1.1)
    share = 1.0 / math.sqrt(x.numel() * spec.qmax)
    nearest = torch.ceil if rounding == "up" else torch.round

    def plain(x: Tensor, learned: Tensor) -> Tensor:
        exponent = OCTAVES * learned
        scale = torch.exp2(exponent + (nearest(exponent) - exponent).detach())
        scale = scale * share + (scale * (1 - share)).detach()
        return rounded(torch.clamp(x / scale, spec.qmin, spec.qmax)) * scale

    agree(quantizer, x, plain, ["log_scale"])
    assert float(torch.log2(quantizer.checked_grid(x).scale)) % 1 == 0


@pytest.mark.parametrize("gain", [None, 1.0, 0.3])
def test_a_weights_power_of_two_learns_its_exponent_behind_a_gain(gain: float | None) -> None:
    spec, w = QuantSpec(4, axis=0, narrow=True, pow2="round"), images(6, 50)
    quantizer = weight_quantizer("lsq", spec, w)
    assert isinstance(quantizer, WeightLSQ)
    gains = None if gain is None else torch.full((6,), gain)
    factor = images(6, 50, seed=1)
    (quantizer(w * (gain or 1.0), gain=gains) * factor).sum().backward()
    share = 1.0 / math.sqrt(50 * spec.qmax)
    twin = quantizer.log_scale.detach().double().requires_grad_()
    exponent = (OCTAVES * twin + math.log2(gain or 1.0))[:, None]
    scale = torch.exp2(exponent + (exponent.round() - exponent).detach())
    wide = (w * (gain or 1.0)).double()
    (rounded(torch.clamp(wide / scale, -7, 7)) * scale * factor.double() * share).sum().backward()
    # float32 sums of 50 terms
    torch.testing.assert_close(quantizer.log_scale.grad, twin.grad, rtol=1e-4, atol=1e-5, check_dtype=False)


def test_lsq_plus_begins_a_weight_at_three_sigma() -> None:
    w = images(6, 4, 3, 3) + 0.1
    mean, sigma = w.flatten(1).mean(1), w.flatten(1).std(1, correction=0)
    expected = torch.maximum((mean - 3 * sigma).abs(), (mean + 3 * sigma).abs()) / 2**3
    found = weight_quantizer("lsq_plus", QuantSpec(4, axis=0, narrow=True), w).checked_grid(w).scale
    torch.testing.assert_close(found, expected)


def test_lsq_plus_begins_an_activation_at_the_least_square_error() -> None:
    x = torch.cat([images(500) * 0.3 + 0.4, torch.tensor([8.0])])
    plus, range_of_all = (calibrated(name, ASYMMETRIC, x) for name in ("lsq_plus", "fixed"))
    errors = [(quantizer(x).detach() - x).square().mean() for quantizer in (plus, range_of_all)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize(("made", "inside"), [(Pact, 0.0), (CGPact, 1.0)])
def test_pact_clips_at_a_learned_level(made: type[LearnedRange], inside: float) -> None:
    quantizer = began(made, UNSIGNED, 0.0, 1.2)

    def plain(x: Tensor, alpha: Tensor) -> Tensor:
        clipped = torch.minimum(x.clamp(min=0.0), alpha)
        exact = alpha.detach() + (alpha - alpha.detach()) * inside
        levels = rounded(15 * torch.minimum(x.clamp(min=0.0), exact) / exact)
        calibrated_form = exact * levels / 15
        if inside:
            return calibrated_form
        return clipped + (calibrated_form - clipped).detach()

    agree(quantizer, images(6, 50), plain, ["high"])


def test_cg_pact_has_its_papers_gradient() -> None:
    quantizer = began(CGPact, UNSIGNED, 0.0, 1.2)
    assert isinstance(quantizer, CGPact)
    alpha, levels = float(quantizer.high.detach()), 15
    assert alpha == float(margin(Range(torch.tensor(0.0), torch.tensor(1.2)), UNSIGNED).high)
    x, g = images(300), images(300, seed=1)
    (quantizer(x) * g).sum().backward()
    part = x.clamp(min=0) / alpha
    slope = torch.where(x >= alpha, 1.0, torch.round(levels * part) / levels - part)
    torch.testing.assert_close(quantizer.high.grad, (g * slope).sum().view(1), rtol=1e-4, atol=1e-5)


def test_pact_of_a_signed_grid_clips_on_both_sides() -> None:
    quantizer = began(Pact, QuantSpec(4), -1.0, 1.0)
    assert isinstance(quantizer, Pact)
    x, g = 2 * images(300), images(300, seed=1)
    (quantizer(x) * g).sum().backward()
    alpha = float(quantizer.high.detach())
    # The lowest code lies a step below -alpha.
    slope = (x > alpha).float() - (x < -alpha * 8 / 7).float() * 8 / 7
    torch.testing.assert_close(quantizer.high.grad, (g * slope).sum().view(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("made", [Pact, CGPact])
def test_zero_counts_as_clipped_where_nothing_is_below_it(made: type[LearnedRange]) -> None:
    x = torch.tensor([-1.0, 0.0, 0.5]).requires_grad_()
    began(made, UNSIGNED, 0.0, 1.2)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 1.0]
