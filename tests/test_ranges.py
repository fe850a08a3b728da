"""Range estimators against their plain formulas on all the data at once."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qatc.grid import codes, dequantize, grid_from_range
from qatc.ranges import RANGE_ESTIMATORS, Histogram, MovingAverage, RangeEstimator
from qatc.spec import QuantSpec

SIGNED, UNSIGNED = QuantSpec(), QuantSpec(signed=False)
ASYMMETRIC = QuantSpec(signed=False, symmetric=False)
SPECS = [SIGNED, UNSIGNED, ASYMMETRIC, QuantSpec(bits=4), QuantSpec(bits=2, signed=False, symmetric=False)]
HISTOGRAMS = [name for name, kind in RANGE_ESTIMATORS.items() if issubclass(kind, Histogram)]


def batches(count: int = 5, spec: QuantSpec = SIGNED) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(8, 3, 16, 16, generator=generator) ** 3 * 1.5**i for i in range(count)]
    return data if spec.signed or not spec.symmetric else [x.relu() for x in data]


def collected(estimator: RangeEstimator, data: list[Tensor]) -> RangeEstimator:
    for x in data:
        estimator.collect(x)
    return estimator


def error(x: Tensor, low: Tensor, high: Tensor, spec: QuantSpec, clipping: float = 1.0) -> float:
    """The mean square error of a range, clipped values weighted."""
    grid = grid_from_range(low, high, spec)
    code = codes(x, grid, spec)
    clipped = torch.round(x / grid.scale) + grid.zero_point != code
    squares = (dequantize(code, grid, spec) - x).double().square()
    return float((squares * torch.where(clipped, clipping, 1.0)).mean())


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_nothing_seen_is_no_range(name: str) -> None:
    found = RANGE_ESTIMATORS[name](SIGNED).range()
    assert found.low.isnan()
    assert found.high.isnan()


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_channel_has_the_range_that_it_has_alone(name: str, spec: QuantSpec) -> None:
    by_channel = QuantSpec(spec.bits, spec.signed, spec.symmetric, axis=1)
    data = [x * torch.tensor([1.0, 1e-3, 40.0]).view(1, 3, 1, 1) for x in batches(3, spec)]
    # By itself a histogram of channels has fewer bins.
    bins = {"side": 512} if name in ("mse", "sqnr", "percentile", "mean_magnitude") else {}
    together = collected(RANGE_ESTIMATORS[name](by_channel, 3, **bins), data).range()
    for channel in range(3):
        alone = collected(RANGE_ESTIMATORS[name](spec, **bins), [x[:, channel] for x in data]).range()
        assert together.low[channel] == alone.low
        assert together.high[channel] == alone.high


@pytest.mark.parametrize("name", RANGE_ESTIMATORS)
def test_values_that_are_not_finite_are_left_out(name: str) -> None:
    x = batches(1)[0]
    clean = collected(RANGE_ESTIMATORS[name](SIGNED), [x]).range()
    spoilt = collected(RANGE_ESTIMATORS[name](SIGNED), [torch.full((4,), torch.inf), x, torch.full((4,), torch.nan)])
    assert spoilt.range() == clean


@pytest.mark.parametrize("name", [*HISTOGRAMS, "minmax", "absmax"])
def test_the_order_of_batches_does_not_matter(name: str) -> None:
    data = batches()
    forwards, backwards = (collected(RANGE_ESTIMATORS[name](ASYMMETRIC), d).range() for d in (data, data[::-1]))
    assert forwards == backwards


def test_the_extremes() -> None:
    x = torch.cat([b.flatten() for b in batches()])
    low, high = collected(RANGE_ESTIMATORS["minmax"](SIGNED), batches()).range()
    assert (low, high) == (x.min(), x.max())
    low, high = collected(RANGE_ESTIMATORS["absmax"](SIGNED), batches()).range()
    assert (-low, high) == (x.abs().max(), x.abs().max())
    low, high = collected(RANGE_ESTIMATORS["absmax"](UNSIGNED), batches()).range()
    assert (float(low), high) == (0.0, x.max())


def test_a_moving_average_is_not_biased_towards_its_start() -> None:
    estimator = collected(MovingAverage(SIGNED, momentum=0.1), [torch.tensor([-2.0, 3.0])])
    assert estimator.range().high.item() == pytest.approx(3.0)
    for _ in range(9):
        estimator.collect(torch.tensor([-4.0, 1.0]))
    weights = [0.1 * 0.9 ** (9 - i) for i in range(10)]
    expected = [sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
                for values in ([-2.0] + [-4.0] * 9, [3.0] + [1.0] * 9)]  # fmt: skip
    assert [float(v) for v in estimator.range()] == pytest.approx(expected, rel=1e-6)


# The quotient of a subnormal number and a bin's width may be zero, which has no sign.
_NORMAL = st.floats(-30, 30, width=32, allow_subnormal=False)


@given(st.lists(_NORMAL, min_size=1, max_size=60), st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_a_histogram_counts_as_if_it_had_known_its_width(values: list[float], parts: int) -> None:
    x = torch.tensor(values)
    whole = collected(Histogram(SIGNED, side=16), [x])
    grown = collected(Histogram(SIGNED, side=16), [p for p in x.tensor_split(parts) if p.numel()])
    assert torch.equal(whole.counts, grown.counts)  # type: ignore[arg-type]
    assert torch.equal(whole.exponent, grown.exponent)  # type: ignore[arg-type]
    assert whole.counts.sum() == x.numel()  # type: ignore[operator]
    assert isinstance(whole, Histogram)
    width = float(torch.exp2(whole.exponent))
    for centre, count in zip(whole.centres()[0].tolist(), whole.counts[0].tolist(), strict=True):
        last = centre + width / 2 == 16 * width
        inside = (x >= centre - width / 2) & ((x < centre + width / 2) | last)
        assert int(inside.sum()) == count


@pytest.mark.parametrize("percent", [99.0, 99.99])
def test_a_percentile_leaves_out_its_share(percent: float) -> None:
    x = torch.cat([b.flatten() for b in batches()])
    kind = RANGE_ESTIMATORS["percentile"]
    width = float(x.abs().max()) / 2048  # of a bin, at most

    def check(values: Tensor, end: Tensor, share: float) -> None:
        assert int((values > end).sum()) <= share * len(x)
        assert int((values >= end - width).sum()) > share * len(x)

    high = collected(kind(SIGNED, percent=percent), batches()).range().high
    check(x.abs(), high, 1 - percent / 100)
    low, high = collected(kind(ASYMMETRIC, percent=percent), batches()).range()
    check(-x, -low, (1 - percent / 100) / 2)
    check(x, high, (1 - percent / 100) / 2)


@pytest.mark.parametrize(("name", "clipping"), [("mse", 1.0), ("sqnr", 3.0)])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_range_by_search_has_the_least_error_on_the_values_themselves(
    name: str, clipping: float, spec: QuantSpec
) -> None:
    data = batches(spec=spec)
    x = torch.cat([b.flatten() for b in data])
    low, high = collected(RANGE_ESTIMATORS[name](spec), data).range()
    found = error(x, low, high, spec, clipping)
    others = [error(x, x.min() * a / 10, x.max() * b / 10, spec, clipping) for a in range(1, 11) for b in range(1, 11)]
    # The search counts each value as the middle of its bin.
    assert found <= min(others) * 1.02
    assert found < error(x, x.min(), x.max(), spec, clipping) or spec.bits == 8


def kl_threshold(x: Tensor, levels: int, bins: int = 2048) -> float:
    """The published procedure, bin by bin."""
    width = 2.0 ** (math.frexp(float(x.abs().max()))[1]) / bins
    histogram = [0.0] * bins
    for value in x.abs().tolist():
        histogram[min(int(value / width), bins - 1)] += 1
    histogram[0] = histogram[1]
    used = max(i for i, count in enumerate(histogram) if count) + 1
    best, best_kept = math.inf, used
    for kept in range(levels, used + 1):
        reference = histogram[:kept]
        reference[-1] += sum(histogram[kept:])
        held: dict[int, list[int]] = {}
        for i in range(kept):
            held.setdefault(i * levels // kept, []).append(i)
        candidate = [0.0] * kept
        for members in held.values():
            filled = [i for i in members if reference[i]]
            for i in filled:
                candidate[i] = sum(histogram[j] for j in members) / len(filled)
        total, total_q = sum(reference), sum(candidate)
        divergence = sum(
            p / total * math.log(p / total / max(q / total_q, 1e-12))
            for p, q in zip(reference, candidate, strict=True)
            if p
        )
        if divergence <= best + 1e-12:
            best, best_kept = divergence, kept
    return best_kept * width


def test_entropy_as_published() -> None:
    x = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    x[:4] *= 8
    high = collected(RANGE_ESTIMATORS["kl"](SIGNED), [x]).range().high
    assert float(high) == pytest.approx(kl_threshold(x, 128), rel=1e-6)
    assert high < x.abs().max() / 2
