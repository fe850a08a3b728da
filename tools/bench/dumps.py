"""Measures what looking at the passes adds to `qatc.prepare`, in CPU time: dump folders, and printed differences.

    tools/bench/dumps [--models resnet18 resnet50] [--size 224] [--rounds 9]

The ways take turns round by round; a share is the median of the rounds' own, so that what slows the machine cancels.
"""

import argparse
import gc
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

import qatc
from qatc.inspection import PrintPasses
from tools.models import model_named

GOAL = 10.0  # percent of prepare's time


def plain(model: nn.Module, x: Tensor, folder: str) -> None:
    """Prepare the model."""
    qatc.prepare(model, x)


def dumped(model: nn.Module, x: Tensor, folder: str) -> None:
    """Do so and write dumps into the folder."""
    qatc.prepare(model, x, dump_dir=folder)


def printed(model: nn.Module, x: Tensor, folder: str) -> None:
    """Do so and print what each pass changes."""
    qatc.prepare(model, x, observers=(PrintPasses(diff=True, file=io.StringIO()),))


WAYS: dict[str, Callable[[nn.Module, Tensor, str], None]] = {"plain": plain, "dumps": dumped, "differences": printed}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        "tools/bench/dumps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50"], metavar="M", help="as tools/opt's")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="runs of each way (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"{'model':<16}{'prepare, s':>12}" + "".join(f"{f'{way}, %':>16}" for way in list(WAYS)[1:]))
    for name in args.models:
        print(row(name, seconds(model_named(name).eval(), torch.randn(2, 3, args.size, args.size), args.rounds)))
    print(f"share of prepare's CPU time that dumps add (goal: {GOAL:g} %)")
    return 0


def seconds(model: nn.Module, x: Tensor, rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each way, round by round, behind one round that is not counted."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in tqdm(range(rounds + 1), disable=None):
        for way, run in WAYS.items():
            gc.collect()  # none pays for another's garbage
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                run(model, x, folder)
                found[way].append(time.process_time() - start)
    return {way: times[1:] for way, times in found.items()}


def row(name: str, found: dict[str, list[float]]) -> str:
    """Return the line of a model: its seconds, and what each way adds in percent."""
    bare = found["plain"]
    added = {
        way: statistics.median(100 * (t / base - 1) for t, base in zip(times, bare, strict=True))
        for way, times in found.items()
        if way != "plain"
    }
    return f"{name:<16}{statistics.median(bare):>12.3f}" + "".join(f"{share:>16.1f}" for share in added.values())


if __name__ == "__main__":
    sys.exit(main())
