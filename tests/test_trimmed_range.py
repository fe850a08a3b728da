"""The range of TI's PACT2 against its formula."""

import numpy as np
import pytest
import torch
from torch import Tensor

from qatc.ranges.trimmed import TrimmedAverage
from qatc.spec import QuantSpec
from tests.models import images


def trimmed(x: Tensor) -> tuple[float, float]:
    """The edges of a histogram of 256 bins, without the bins of which less than 0.01 % lies at or beyond."""
    counts, edges = np.histogram(x.numpy().ravel(), 256)
    share = counts / x.numel()
    first = int(np.argmax(np.cumsum(share) >= 1e-4))
    last = 255 - int(np.argmax(np.cumsum(share[::-1]) >= 1e-4))
    return float(edges[first]), float(edges[last + 1])


def test_the_rarest_values_are_left_out() -> None:
    x = images(40000)
    x[:2] = torch.tensor([-50.0, 70.0])
    estimator = TrimmedAverage(QuantSpec())
    estimator.collect(x)
    low, high = estimator.range()
    assert (float(low), float(high)) == pytest.approx(trimmed(x), rel=1e-4)
    assert -6 < float(low) < float(high) < 6


def test_batches_are_averaged_and_later_ones_by_a_thousandth() -> None:
    estimator = TrimmedAverage(QuantSpec())
    ends = []
    for seed in range(5):
        x = images(1000, seed=seed)
        ends.append(trimmed(x))
        estimator.collect(x)
    torch.testing.assert_close(torch.stack(estimator.range()).double(), torch.tensor(ends).double().mean(0))
    estimator.count.fill_(5000.0)
    before = torch.stack(estimator.range())
    x = 100 * images(1000)
    estimator.collect(x)
    torch.testing.assert_close(
        torch.stack(estimator.range()), before + 1e-3 * (torch.tensor(trimmed(x)) - before), rtol=1e-4, atol=1e-5
    )


def test_images_are_thinned_and_every_pixel_has_its_turn() -> None:
    for turn in range(4):
        x = images(2, 3, 8, 9) / 100
        x[0, 0, turn // 2 + 2, turn % 2 + 4] = 1.0
        for number in range(4):
            estimator = TrimmedAverage(QuantSpec())
            estimator.count.fill_(number)
            estimator.collect(x)
            assert (float(estimator.range().high) > 0.5) == (number == turn)


def test_small_images_are_whole() -> None:
    x = images(2, 3, 4, 4) / 100
    x[0, 0, 3, 3] = 1.0
    estimator = TrimmedAverage(QuantSpec())
    estimator.collect(x)
    assert float(estimator.range().high) == pytest.approx(1.0)


def test_one_value_is_a_range() -> None:
    estimator = TrimmedAverage(QuantSpec())
    estimator.collect(torch.full((3, 5), 2.0))
    torch.testing.assert_close(torch.stack(estimator.range()), torch.tensor([2.0, 2.0]))
