"""Every figure against numpy's own, over batches."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from qatc.debugging.figures import Agreement, decibel
from qatc.debugging.statistics import MOST_BINS, GridUse, Sums
from qatc.grid import Grid
from qatc.spec import QuantSpec
from tests.models import images

BATCHES = [images(4, 6, 5, seed=seed) * 3 + 1 for seed in range(3)]
WHOLE = torch.cat(BATCHES).double().numpy()
GRIDS = [
    (QuantSpec(8), 0.05, 0.0),
    (QuantSpec(4, signed=False, symmetric=False), 0.7, 5.0),
    (QuantSpec(3, narrow=True), 1.5, 0.0),
    (QuantSpec(12, signed=False), 0.001, 0.0),
]


def test_agreement_is_numpys() -> None:
    sums = Sums()
    for batch in BATCHES:
        sums.add(batch, batch.round())
    found, noisy = sums.result(), WHOLE.round()
    error = np.square(WHOLE - noisy).sum()
    assert found.sqnr == pytest.approx(10 * np.log10(np.square(WHOLE).sum() / error), abs=1e-4)
    assert found.noise == pytest.approx(error / np.square(WHOLE).sum(), rel=1e-5)
    norms = np.linalg.norm(WHOLE.ravel()) * np.linalg.norm(noisy.ravel())
    assert found.cosine == pytest.approx((WHOLE * noisy).sum() / norms, rel=1e-6)


def test_sums_are_kept_in_float64() -> None:
    sums = Sums()
    for value in (1e3, *[1e-2] * 100):  # in float32 each further one would be lost
        sums.add(torch.tensor([value]), torch.tensor([0.0]))
    assert isinstance(sums.error, Tensor)
    assert sums.error.dtype == torch.float64
    assert float(sums.error) - 1e6 == pytest.approx(100 * 1e-4, rel=1e-3)


def test_half_precision_does_not_overflow() -> None:
    sums = Sums()
    sums.add(torch.full((10,), 6e4, dtype=torch.float16), torch.full((10,), 3e4, dtype=torch.float16))
    assert sums.result().sqnr == pytest.approx(10 * math.log10(4), abs=1e-2)


@pytest.mark.parametrize(
    ("power", "error", "wanted"), [(1, 0, math.inf), (0, 1, -math.inf), (100, 1, 20), (0, 0, math.inf)]
)
def test_decibels(power: float, error: float, wanted: float) -> None:
    assert decibel(power, error) == wanted
    assert math.isnan(decibel(math.nan, 1.0))


def test_noise_and_cosine_without_a_signal() -> None:
    assert Agreement(0.0, 0.0, 1.0).noise == 0.0
    assert Agreement(0.0, 1.0, 0.0).noise == math.inf
    zeros = Sums()
    zeros.add(torch.zeros(3), torch.zeros(3))
    assert zeros.result().cosine == 1.0
    zeros.add(torch.zeros(3), torch.ones(3))
    assert zeros.result().cosine == 0.0


@pytest.mark.parametrize(("spec", "scale", "zero_point"), GRIDS, ids=lambda v: str(v))
def test_the_use_of_a_grid_is_numpys(spec: QuantSpec, scale: float, zero_point: float) -> None:
    use = GridUse(spec, Grid(torch.tensor(scale), torch.tensor(zero_point)))
    for batch in BATCHES:
        use.add(batch)
    found = use.result()
    exact = torch.cat(BATCHES).numpy()
    codes = np.rint(exact / np.float32(scale)) + zero_point
    assert found.data == (exact.min(), exact.max())
    assert found.grid == pytest.approx(((spec.qmin - zero_point) * scale, (spec.qmax - zero_point) * scale))
    assert found.clipped == np.mean((codes < spec.qmin) | (codes > spec.qmax))
    used = np.unique(codes.clip(spec.qmin, spec.qmax)).size
    assert found.codes_used == used / (spec.qmax - spec.qmin + 1)
    histogram = found.histogram
    assert histogram is not None
    assert histogram.step == pytest.approx(scale)
    assert (histogram.origin, histogram.clip) == (0.0, found.grid)
    edges = np.linspace(histogram.low, histogram.high, len(histogram.counts) + 1)
    assert np.array_equal(np.histogram(exact, edges)[0], histogram.counts)
    assert sum(histogram.counts) == exact.size
    assert MOST_BINS / 4 < len(histogram.counts) <= MOST_BINS
    width = edges[1] - edges[0]
    assert histogram.low <= exact.min() < histogram.low + width
    assert histogram.high - width <= exact.max() < histogram.high


def test_with_a_scale_per_channel_the_histogram_is_in_codes() -> None:
    spec = QuantSpec(4, axis=0)
    scale = torch.tensor([0.1, 1.0, 10.0])
    values = torch.tensor([[0.1, 0.2, 0.95], [1.0, -2.0, 9.0], [10.0, 0.0, -100.0]])
    use = GridUse(spec, Grid(scale, torch.zeros(3)))
    use.add(values)
    found = use.result()
    assert found.grid == (-80.0, 70.0)
    assert found.data == (-100.0, 10.0)
    assert found.clipped == pytest.approx(3 / 9)
    assert found.codes_used == len({1, 2, 7, -2, 0, -8}) / 16
    assert found.histogram is not None
    assert (found.histogram.unit, found.histogram.step, found.histogram.clip) == ("codes", 1.0, (-8, 7))
    assert (found.histogram.low, found.histogram.high) == pytest.approx((-10.0, 9.5), abs=0.6)


@pytest.mark.parametrize("batches", [[0.0, 0.0], [1e-3, 1.0, 1e4], [1e4, 1.0, 1e-3], [-5.0], [1e30]])
def test_the_histogram_grows_with_its_data(batches: list[float]) -> None:
    use = GridUse(QuantSpec(8), Grid(torch.tensor(0.1), torch.tensor(0.0)))
    for value in batches:
        use.add(torch.full((7,), value))
    histogram = use.result().histogram
    assert histogram is not None
    assert sum(histogram.counts) == 7 * len(batches)
    assert histogram.low <= min(batches)
    assert max(batches) <= histogram.high
    assert histogram.low < histogram.high


def test_values_that_are_not_finite_are_no_histogram_and_no_crash() -> None:
    use = GridUse(QuantSpec(8), Grid(torch.tensor(0.1), torch.tensor(0.0)))
    use.add(torch.tensor([math.nan, math.inf]))
    assert use.result().histogram is None
    use.add(torch.tensor([1.0]))
    found = use.result().histogram
    assert found is not None
    assert sum(found.counts) == 1


def test_an_empty_batch_is_none() -> None:
    use = GridUse(QuantSpec(8), Grid(torch.tensor(0.1), torch.tensor(0.0)))
    use.add(torch.empty(0, 3))
    use.add(torch.ones(2))
    assert use.result().data == (1.0, 1.0)
