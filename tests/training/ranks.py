"""Two processes of one gloo process group, each a rank."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing
from torch.multiprocessing.spawn import start_processes

RANKS = 2


def on_ranks(folder: Path, function: Callable[..., None], *args: Any) -> None:
    """Run `function(rank, *args)` in each process; an exception in one is raised here with its traceback.

    The processes are forked from one that has imported torch and this package already.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(["qatc", "tests.training.ranks"])
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    start_processes(_rank, (str(meeting), function, args), RANKS, start_method="forkserver")


def _rank(rank: int, meeting: str, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{meeting}", rank=rank, world_size=RANKS, timeout=datetime.timedelta(seconds=60)
    )
    try:
        function(rank, *args)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def of_ranks(value: Tensor) -> list[Tensor]:
    """Return the tensor as it is on each rank."""
    found = [torch.empty_like(value) for _ in range(RANKS)]
    dist.all_gather(found, value.detach().contiguous())
    return found


def check_same_on_ranks(state: dict[str, Tensor], but: tuple[str, ...] = ()) -> None:
    """Check that the ranks have the same bits, except for names that end so."""
    differ = [name for name, value in state.items() if not torch.equal(*of_ranks(value))]
    assert [name for name in differ if not name.endswith(but or ("/",))] == []
