"""FSDP2 with two gloo processes: parameters in shards, and the losses of one process on the whole batch."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import qatc
from qatc.config import LayerConfig, QConfig
from qatc.errors import CalibrationError, CheckpointError
from qatc.modules.fused import Fused
from tests.check_pass import evaluated
from tests.models import ResidualIdentity, images, randomise
from tests.prepared import prepared
from tests.training.ranks import RANKS, check_same_on_ranks, on_ranks

STEPS = 3
LEARNED_WEIGHTS = QConfig(LayerConfig(weight_bits=4, weight_quantizer="lsq"))


def begun(config: str | QConfig) -> Any:
    """Return a calibrated model in which nothing depends on how the batch is divided."""
    gm = qatc.prepare(randomise(ResidualIdentity()), images(), config=config).train()
    qatc.calibrate(gm, [images(seed=1), images(seed=2)], progress=False)
    qatc.freeze_bn(gm)
    qatc.freeze_ranges(gm)
    return gm


def losses(gm: Any, rank: int | None) -> list[float]:
    optimizer = torch.optim.SGD(gm.parameters(), 1e-2)
    found = []
    for step in range(STEPS):
        x = images(seed=step)
        loss = gm(x if rank is None else x.chunk(RANKS)[rank]).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        if rank is not None:
            dist.all_reduce(mean)
            mean /= RANKS
        found.append(float(mean))
    return found


def _sharded(rank: int, folder: Path) -> None:
    mesh = init_device_mesh("cpu", (RANKS,))
    for config, by_layer in (("w8a8", False), (LEARNED_WEIGHTS, True), ("w4a4", False)):
        alone = begun(config)
        gm = copy.deepcopy(alone)
        if by_layer:
            for layer in [m for m in gm.modules() if isinstance(m, Fused)]:
                fully_shard(layer, mesh=mesh)
        fully_shard(gm, mesh=mesh)
        assert all(isinstance(p, DTensor) for p in gm.parameters())
        ours, theirs = losses(gm, rank), losses(alone, None)
        assert ours[-1] < ours[0]
        if config == "w4a4":  # the gradient of an activation's step is scaled by the size of the rank's batch
            continue
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # sums in another order
        _gathered(rank, gm, alone, config, folder)


def _gathered(rank: int, gm: Any, alone: Any, config: str | QConfig, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="sharded over ranks"):
        qatc.save(gm, folder / f"{rank}.pt")
    if config == LEARNED_WEIGHTS:
        with pytest.raises(CalibrationError, match="calibrate first"):
            qatc.calibrate(gm, [images()], progress=False)
    state = get_model_state_dict(gm, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    whole = begun(config)
    if rank == 0:
        whole.load_state_dict(state)
        torch.testing.assert_close(dict(whole.state_dict()), dict(alone.state_dict()), rtol=1e-5, atol=1e-6)
        qatc.save(whole, folder / "whole.pt")
        again = qatc.load(folder / "whole.pt")
        assert torch.equal(evaluated(again.eval(), [images(seed=9)]), evaluated(whole.eval(), [images(seed=9)]))


def test_shards_train_as_one_process_does_and_gather_into_a_checkpoint(tmp_path: Path) -> None:
    on_ranks(tmp_path, _sharded, tmp_path)


def _ranges(_: int) -> None:
    gm = prepared(ResidualIdentity()).train()
    fully_shard(gm, mesh=init_device_mesh("cpu", (RANKS,)))
    before = {name: value.clone() for name, value in gm.named_buffers()}
    gm(images(seed=dist.get_rank())).square().mean().backward()
    ranges = {name: value for name, value in gm.named_buffers() if "_q." in name}
    check_same_on_ranks(ranges)
    assert not any(torch.equal(value, before[name]) for name, value in ranges.items() if name.endswith("high"))


def test_ranges_are_one_on_all_ranks(tmp_path: Path) -> None:
    on_ranks(tmp_path, _ranges)
