"""DistributedDataParallel with two gloo processes: one set of ranges, one set of parameters."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import qatc
from qatc.config import LayerConfig, QConfig
from qatc.errors import CalibrationError
from qatc.float_state import quantizer_names
from qatc.prepared import PreparedModel
from qatc.quantizers import Tracked
from qatc.ranges import Range
from tests.models import ResidualIdentity, images, randomise
from tests.training.ranks import RANKS, check_same_on_ranks, on_ranks

STATISTICS = ("running_mean", "running_var")
CONFIGS = {
    "moving averages": QConfig(LayerConfig()),
    "extremes": QConfig(LayerConfig(activation_range="minmax")),
    "learned": QConfig(
        LayerConfig(weight_bits=4, activation_bits=4, activation_quantizer="lsq", weight_quantizer="lsq")
    ),
}


def model(config: str | QConfig = "w8a8") -> PreparedModel:
    return qatc.prepare(randomise(ResidualIdentity()), images(), config=config)


def quantizer_state(gm: PreparedModel) -> dict[str, Tensor]:
    return {name: gm.state_dict()[name] for name in quantizer_names(gm)}


def train(rank: int, gm: PreparedModel, synced: bool, steps: int = 3) -> None:
    wrapped = DistributedDataParallel(gm.train(), forward_sync_buffers=synced)
    optimizer = torch.optim.SGD(wrapped.parameters(), 1e-3)
    for step in range(steps):
        optimizer.zero_grad()
        wrapped(images(seed=10 * step + rank)).square().mean().backward()
        optimizer.step()


def _every_state_is_one(rank: int) -> None:
    for synced in (True, False):
        for config in CONFIGS.values():
            for calibrated in (True, False):
                gm = model(config)
                if calibrated:
                    qatc.calibrate(gm, [images(seed=100 + rank)], progress=False)
                begun = {name: value.clone() for name, value in quantizer_state(gm).items()}
                train(rank, gm, synced)
                # a BatchNorm's statistics are those of the rank until torch next sends rank 0's, as in float
                check_same_on_ranks(gm.state_dict(), STATISTICS)
                ended = quantizer_state(gm)
                assert all(torch.isfinite(value).all() for value in ended.values())
                assert not all(torch.equal(value, begun[name]) for name, value in ended.items())


def test_ranges_and_parameters_have_the_same_bits_on_all_ranks(tmp_path: Path) -> None:
    on_ranks(tmp_path, _every_state_is_one)


def recorded(gm: PreparedModel, name: str) -> Range:
    quantizer = gm.get_submodule(name)
    assert isinstance(quantizer, Tracked)
    return quantizer.recorded()


def _tracked(rank: int) -> None:
    averages, extremes = (model(CONFIGS[name]) for name in ("moving averages", "extremes"))
    batches = [images(seed=seed) * (1 + seed) for seed in range(RANKS)]
    for gm in (averages, extremes):
        gm.train()(batches[rank])
    low, high = torch.stack([torch.stack([batch.min(), batch.max()]) for batch in batches]).unbind(1)
    torch.testing.assert_close(recorded(averages, "x_q"), Range(low.mean(), high.mean()))
    assert recorded(extremes, "x_q") == Range(low.min(), high.max())
    gm = extremes.eval()
    before = {name: value.clone() for name, value in gm.state_dict().items()}
    if rank == 0:  # an evaluation on one rank waits for no other
        gm(100 * images())
    assert all(torch.equal(value, before[name]) for name, value in gm.state_dict().items())


def test_averages_are_means_over_the_ranks_and_extremes_those_of_all(tmp_path: Path) -> None:
    on_ranks(tmp_path, _tracked)


def _calibrated(rank: int, expected: dict[str, dict[str, Tensor]]) -> None:
    for name, config in CONFIGS.items():
        gm = model(config)
        qatc.calibrate(DistributedDataParallel(gm), [images(seed=rank), images(seed=2 + rank)], progress=False)
        check_same_on_ranks(gm.state_dict())
        for key, value in quantizer_state(gm).items():
            # a mean's sum may be in another order
            torch.testing.assert_close(value, expected[name][key], rtol=0 if name == "extremes" else 1e-5, atol=0)
    alone = model()
    qatc.calibrate(alone, [images()] if rank == 1 else [], progress=False)
    check_same_on_ranks(alone.state_dict())
    with pytest.raises(CalibrationError, match="there was no batch"):
        qatc.calibrate(alone, [], progress=False)


def test_calibration_records_what_any_rank_saw(tmp_path: Path) -> None:
    expected = {}
    for name, config in CONFIGS.items():
        gm = model(config)
        qatc.calibrate(gm, [images(seed=seed) for seed in range(2 * RANKS)], progress=False)
        expected[name] = quantizer_state(gm)
    # an average weighs later batches more, so that of all ranks is the mean of theirs
    alone = [model() for _ in range(RANKS)]
    for rank, gm in enumerate(alone):
        qatc.calibrate(gm, [images(seed=rank), images(seed=2 + rank)], progress=False)
    states = [quantizer_state(gm) for gm in alone]
    expected["moving averages"] = {name: torch.stack([s[name] for s in states]).mean(0) for name in states[0]}
    on_ranks(tmp_path, _calibrated, expected)


def _halves(rank: int, start: dict[str, Any], expected: dict[str, Tensor]) -> None:
    gm = model()
    gm.load_state_dict(start)
    qatc.freeze_bn(gm)
    qatc.freeze_ranges(gm)
    wrapped = DistributedDataParallel(gm.train())
    optimizer = torch.optim.SGD(wrapped.parameters(), 1e-2)
    for step in range(3):
        optimizer.zero_grad()
        wrapped(images(seed=step).chunk(RANKS)[rank]).square().mean().backward()
        optimizer.step()
    for name, value in gm.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_two_ranks_train_as_one_process_on_the_whole_batch(tmp_path: Path) -> None:
    """With statistics and ranges frozen nothing depends on the other half; what is left is the order of sums."""
    gm = model()
    qatc.calibrate(gm, [images()], progress=False)
    start = {name: value.clone() for name, value in gm.state_dict().items()}
    qatc.freeze_bn(gm)
    qatc.freeze_ranges(gm)
    optimizer = torch.optim.SGD(gm.train().parameters(), 1e-2)
    for step in range(3):
        optimizer.zero_grad()
        gm(images(seed=step)).square().mean().backward()
        optimizer.step()
    on_ranks(tmp_path, _halves, start, gm.state_dict())
