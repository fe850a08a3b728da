"""When a quantizer has a range, when that moves, and what it learns."""

import copy
import math

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.errors import CalibrationError, ConfigError, QatcWarning
from qatc.grid import MIN_SCALE
from qatc.quantizers import (
    ACTIVATION_QUANTIZERS,
    LSQ,
    WEIGHT_QUANTIZERS,
    Fixed,
    Quantizer,
    Tracked,
    WeightFixed,
    WeightLSQ,
    WeightTracked,
    activation_quantizer,
    weight_quantizer,
)
from qatc.quantizers.fake_quantize import snap
from qatc.quantizers.lsq import OCTAVES
from qatc.ranges import Range
from qatc.spec import QuantSpec
from tests.models import ResidualIdentity, images
from tests.quantizer_cases import (
    broadcast,
    calibrated,
    every_activation,
    every_case,
    every_kind,
    for_width,
)

# Fixed ranges then say that they are those of one batch.
without_calibration = pytest.mark.filterwarnings("ignore:training began without:qatc.errors.QatcWarning")


@every_activation
def test_before_it_has_a_range_it_passes_values_through(name: str) -> None:
    quantizer, x = activation_quantizer(name, QuantSpec()).eval(), images()
    assert quantizer(x) is x
    assert not quantizer.ready
    with pytest.raises(CalibrationError) as caught:
        quantizer.codes(x)
    assert str(caught.value) == snapshot("""\
a quantizer has no range
  try: run qatc.calibrate(model, batches), or train\
""")


@without_calibration
@every_activation
def test_training_begins_a_range_with_the_first_batch(name: str) -> None:
    quantizer, x = activation_quantizer(name, QuantSpec()), images()
    assert not torch.equal(quantizer(x), x)
    assert torch.equal(quantizer.grid(x, None, None).scale, calibrated(name, QuantSpec(), x).grid(x, None, None).scale)


def test_fixed_ranges_that_were_never_recorded_are_warned_of() -> None:
    gm = qatc.prepare(ResidualIdentity(), images(), config="aimet").train()
    with pytest.warns(QatcWarning, match=r"without the ranges of fixed quantizers.*\n  try: qatc\.calibrate"):
        gm(images())
    calibrated_first = qatc.prepare(ResidualIdentity(), images(), config="aimet").train()
    with qatc.float_mode(calibrated_first):
        calibrated_first(images(seed=1))  # begins nothing
    qatc.calibrate(calibrated_first, [images()], progress=False)
    calibrated_first(images())


def test_a_moving_average_moves_by_its_momentum_from_the_first_batch_on() -> None:
    quantizer = Tracked(QuantSpec(signed=False, symmetric=False), "moving_average:0.5")
    quantizer(torch.tensor([-1.0, 2.0]))
    torch.testing.assert_close(quantizer.recorded(), Range(torch.tensor(-1.0), torch.tensor(2.0)))
    quantizer(torch.tensor([-4.0, 5.0]))  # the first batch weighs 1/4 of the whole, the second 1/2
    torch.testing.assert_close(quantizer.recorded(), Range(torch.tensor(-3.0), torch.tensor(4.0)))


def test_recording_covers_all_batches() -> None:
    seen = (torch.tensor([-1.0, 2.0]), torch.tensor([-3.0, 1.0]))
    quantizer = calibrated("fixed", QuantSpec(), *seen, estimate="minmax")
    assert isinstance(quantizer, Fixed)
    assert (float(quantizer.low), float(quantizer.high)) == (-3.0, 2.0)


def test_lsq_begins_with_the_papers_step() -> None:
    x = images(4, 100)
    expected = 2 * x.abs().mean() / math.sqrt(7)
    quantizer = calibrated("lsq", QuantSpec(4), *x, estimate="mean_magnitude")
    torch.testing.assert_close(quantizer.checked_grid(x).scale, expected)
    weights = weight_quantizer("lsq", QuantSpec(4), x, "mean_magnitude")
    torch.testing.assert_close(weights.checked_grid(x).scale, expected)


def test_an_asymmetric_learned_step_begins_with_the_least_error() -> None:
    x = torch.cat([images(50, 40).flatten(), torch.tensor([30.0])])  # a grid up to 30 would put all others at zero
    spec = QuantSpec(3, signed=False, symmetric=False)
    begun, least = (
        calibrated(name, spec, x, estimate=estimate) for name, estimate in (("lsq", None), ("fixed", "mse"))
    )
    torch.testing.assert_close(begun.checked_grid(x).scale * (1 + 2.0**-11), least.checked_grid(x).scale)
    assert int(begun.codes(x).unique().numel()) > 4


def test_a_learned_step_of_a_weight_begins_with_the_least_error() -> None:
    w = images(3, 200)
    scale = weight_quantizer("lsq", QuantSpec(4, axis=0), w).checked_grid(w).scale.view(3, 1)

    def error(steps: Tensor) -> Tensor:
        return ((w / steps).round().clamp(-8, 7) * steps - w).square().sum(1)

    best = torch.stack([error(scale * k / 20) for k in range(10, 40)]).amin(0)
    assert bool((error(scale) <= best * 1.02).all())  # it looks at the middles of bins


@every_activation
def test_ranges_are_kept_once_observing_ends(name: str) -> None:
    quantizer = calibrated(name, QuantSpec(), images()).train()
    quantizer.observing = False
    before = copy.deepcopy(quantizer.state_dict())
    quantizer(100 * images())
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())


@every_kind
def test_a_disabled_one_passes_values_through(quantizer: Quantizer) -> None:
    quantizer, x = copy.deepcopy(quantizer), images()
    quantizer.enabled = False
    assert quantizer(x) is x


@pytest.mark.parametrize("spec", [QuantSpec(), QuantSpec(pow2="up"), QuantSpec(signed=False, symmetric=False)], ids=str)
def test_a_tensor_of_zeros_stays_zeros(spec: QuantSpec) -> None:
    zeros = torch.zeros(4, 3)
    made = [calibrated(name, spec, zeros) for name in ACTIVATION_QUANTIZERS]
    made += [weight_quantizer(name, spec, zeros).eval() for name in for_width(WEIGHT_QUANTIZERS, 8) if spec.symmetric]
    for quantizer in made:
        assert torch.equal(quantizer(zeros), zeros)
        assert float(quantizer.checked_grid(zeros).scale) >= MIN_SCALE


@every_activation
def test_values_that_are_not_finite_are_found(name: str) -> None:
    for bad in (math.inf, math.nan):
        quantizer = activation_quantizer(name, QuantSpec()).eval()
        quantizer.recording = True
        quantizer(images())
        quantizer(torch.tensor([1.0, bad]))
        assert not quantizer.settle()


@every_activation
def test_call_sites_that_share_a_grid_are_all_covered(name: str) -> None:
    quantizer = ACTIVATION_QUANTIZERS[name](QuantSpec(), sites=2)
    quantizer.recording = True
    quantizer(images(), 0)
    assert not quantizer.ready
    quantizer(3 * images(), 1)
    quantizer.recording = False
    quantizer.settle()
    wide = calibrated(name, QuantSpec(), 3 * images())
    torch.testing.assert_close(quantizer.eval().checked_grid(images()), wide.checked_grid(images()))


@without_calibration
@every_kind
def test_state_is_carried_by_the_state_dict(quantizer: Quantizer) -> None:
    trained, fresh, x = copy.deepcopy(quantizer).train(), copy.deepcopy(quantizer).eval(), images(6)
    trained(x)
    fresh(x)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(x), trained.eval()(x))
    assert not torch.equal(fresh(x), x)


@without_calibration
@every_kind
def test_low_precision_values_keep_their_dtype_and_the_scale_is_float32(quantizer: Quantizer) -> None:
    quantizer, x = copy.deepcopy(quantizer), images(6).bfloat16()
    assert quantizer(x).dtype == torch.bfloat16
    assert quantizer.eval().checked_grid(x).scale.dtype == torch.float32


@pytest.mark.parametrize(
    "spec", [QuantSpec(4), QuantSpec(8, axis=0), QuantSpec(3, signed=False, symmetric=False)], ids=str
)
def test_lsqs_gradients_are_those_of_the_straight_through_form(spec: QuantSpec) -> None:
    """Against autograd in float64 of y = s * round(clip(x / s)), with round's gradient 1 (LSQ, equations 1 to 3)."""
    x = (images(6, 50) * 0.7 + 0.1).requires_grad_()
    weights = spec.symmetric
    quantizer = weight_quantizer("lsq", spec, x) if weights else calibrated("lsq", spec, x.detach()).train()
    assert isinstance(quantizer, LSQ | WeightLSQ)
    factor = images(6, 50, seed=1)
    (quantizer(2 * x) * factor).sum().backward()

    grid = quantizer.checked_grid(x)
    wide = x.detach().double().requires_grad_()
    log = quantizer.log_scale.detach().double().requires_grad_()
    share = 1.0 / math.sqrt(x.numel() / log.numel() * spec.qmax)
    step = torch.exp2(OCTAVES * log)
    step = broadcast(step * share + (step * (1 - share)).detach(), x, spec.axis)
    zero_point = broadcast(grid.zero_point, x, spec.axis).double()
    ratio = torch.minimum(torch.maximum(2 * wide / step, spec.qmin - zero_point), spec.qmax - zero_point)
    levels = ratio + (ratio.round() - ratio).detach()
    (levels * step * factor.double()).sum().backward()
    # float32 sums of 50 to 300 terms
    torch.testing.assert_close(x.grad, wide.grad, rtol=1e-5, atol=1e-6, check_dtype=False)
    torch.testing.assert_close(quantizer.log_scale.grad, log.grad, rtol=1e-4, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("rate", [-1e4, -1e2, 1e2, 1e4])
def test_a_learned_scale_stays_positive_and_finite_whatever_the_optimizer_does(rate: float) -> None:
    x = images(40)
    for quantizer in (calibrated("lsq", QuantSpec(4), x).train(), weight_quantizer("lsq", QuantSpec(4), x)):
        optimizer = torch.optim.SGD(quantizer.parameters(), lr=abs(rate), maximize=rate < 0)
        for _ in range(20):
            optimizer.zero_grad()
            quantizer(x).square().sum().backward()
            optimizer.step()
            scale = quantizer.checked_grid(x).scale
            assert 0 < float(scale) < math.inf
            assert bool(torch.isfinite(quantizer(x)).all())


@pytest.mark.parametrize("pow2", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_learned_grid_ends_no_further_than_its_upper_bound(symmetric: bool, pow2: bool) -> None:
    spec = QuantSpec(4, signed=False, symmetric=symmetric, upper=1.5, pow2="up" if pow2 else None)
    quantizer = calibrated("lsq", spec, images(99).clamp(max=1.5))
    assert isinstance(quantizer, LSQ)
    for shift in (0.0, 0.1, 1.0, 10.0):
        with torch.no_grad():
            quantizer.log_scale.add_(shift)
        grid = quantizer.checked_grid(images(1))
        high = (spec.qmax - float(grid.zero_point)) * float(grid.scale)
        reached = 1.875 if pow2 and symmetric else 1.5  # 15 / 8, the least power of two that reaches 1.5
        assert 0.5 < high <= reached * (1 + 2**-23)  # it uses its range, and no more


def test_a_gain_multiplies_a_step_per_channel_and_leaves_a_single_one() -> None:
    w, gain = images(4, 9), torch.tensor([0.5, 1.0, 2.0, 4.0])
    per_channel = weight_quantizer("lsq", QuantSpec(axis=0), w)
    torch.testing.assert_close(per_channel.checked_grid(w, gain).scale, gain * per_channel.checked_grid(w).scale)
    single = weight_quantizer("lsq", QuantSpec(), w)
    assert torch.equal(single.checked_grid(w, gain).scale, single.checked_grid(w).scale)


@every_case
def test_a_scale_is_at_least_its_floor(quantizer: Quantizer, x: Tensor) -> None:
    if not isinstance(quantizer, WeightTracked | WeightFixed | WeightLSQ):
        return
    scale = quantizer.checked_grid(x).scale
    assert bool((quantizer.checked_grid(x, floor=3 * scale).scale >= 3 * scale).all())
    assert torch.equal(quantizer.checked_grid(x, floor=scale / 3).scale, scale)


def test_a_bias_snaps_to_multiples_of_its_step_and_keeps_its_gradient() -> None:
    bias, step = images(5).requires_grad_(), torch.full((5,), 0.01)
    snapped = snap(bias, step)
    assert torch.equal(snapped.detach(), (bias.detach() / step).round() * step)
    snapped.sum().backward()
    torch.testing.assert_close(bias.grad, torch.ones(5))


def test_a_quantizer_of_another_spec_is_fresh() -> None:
    for name in ACTIVATION_QUANTIZERS:
        made = calibrated(name, QuantSpec(), images()).with_spec(QuantSpec(4), sites=3)
        assert (type(made), made.spec.bits, made.sites, made.ready) == (ACTIVATION_QUANTIZERS[name], 4, 3, False)


def test_an_unknown_name_proposes_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        activation_quantizer("trackd", QuantSpec())
    assert str(caught.value) == snapshot("""\
unknown quantizer 'trackd'
  try: did you mean 'tracked'? there are: tracked, fixed, lsq, lsq_plus, learned_range, pact, cg_pact\
""")


def test_a_quantizer_moves_and_copies_like_a_module() -> None:
    model = nn.Sequential(nn.Linear(3, 3), calibrated("lsq", QuantSpec(4), images()))
    twin = copy.deepcopy(model).double().float()
    assert torch.equal(twin[1](images()), model[1](images()))
    assert repr(model[1]).startswith("LSQ(\n  s4\n")


@pytest.mark.parametrize("estimate", ["minmax", "absmax", "moving_average"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_training_batch_that_overflowed_leaves_the_range(estimate: str, value: float) -> None:
    quantizer = Tracked(QuantSpec(signed=False, symmetric=False), estimate).train()
    quantizer(torch.tensor([-1.0, 2.0]))
    before = quantizer.recorded()
    quantizer(torch.tensor([-1.0, value]))
    assert quantizer.recorded() == before
