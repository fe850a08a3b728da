"""Measures what `qatc.prepare` costs, in seconds of CPU time: of one model stage by stage, of networks ever deeper.

    tools/bench/prepare [--model resnet50] [--size 224] [--rounds 3]

Each figure is a median; a tiny model is prepared first, so that imports are not counted. The cost grows as the number
of nodes to the power of the exponent. Last, a residual network of 200 blocks is prepared and lowered.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import qatc
from qatc.config import config_of
from qatc.passes import qat_pipeline
from qatc.pipeline import PassEvent
from qatc.targets import target_of
from qatc.trace import trace
from tools.models import model_named

STEPS, STEP = 5, 10**0.5  # networks of a family, and how much deeper each is than the one before: 100 to 10,000 nodes
GOAL_SECONDS, GOAL_EXPONENT = 2.0, 1.1
BLOCKS, GOAL_PREPARED, GOAL_LOWERED = 200, 5.0, 20.0


class Residual(nn.Module):
    """Two convolutions with BatchNorm, and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like x, [N, 8, H, W]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        result: Tensor = self.relu(y)
        return result


class Transformer(nn.Module):
    """Attention as many models write it, and two linear layers."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor like x, [N, tokens, width]."""
        n, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(n, tokens, width))
        result: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return result


class Family(NamedTuple):
    """Networks of one kind of block; `depth` blocks, rounded, in the shallowest."""

    name: str
    block: Callable[[], nn.Module]
    example: tuple[int, ...]
    depth: float

    def depths(self) -> list[int]:
        """Return the number of blocks of each network."""
        return [round(self.depth * STEP**i) for i in range(STEPS)]


FAMILIES = (
    Family("convolutions", Residual, (2, 8, 16, 16), 9),
    Family("transformer", Transformer, (2, 10, 16), 2.3),
)


class Cost(NamedTuple):
    """CPU seconds of one `prepare`: of tracing, and of each pass by name."""

    trace: float
    passes: dict[str, float]
    nodes: int

    @property
    def whole(self) -> float:
        """Of all of it."""
        return self.trace + sum(self.passes.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        "tools/bench/prepare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50", help="as tools/opt takes it (default: %(default)s)")
    parser.add_argument("--size", type=int, default=224, help="height and width of its images (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    depths = [(family, depth) for family in FAMILIES for depth in family.depths()]
    subjects = [(model_named(args.model), torch.randn(2, 3, args.size, args.size))]
    subjects += [(nn.Sequential(*(f.block() for _ in range(depth))), torch.randn(f.example)) for f, depth in depths]
    whole, *chains = costs(subjects, args.rounds)
    print("\n".join(stages(f"{args.model} at {args.size}x{args.size}", whole)))
    print("\n".join(growth(depths, chains)))
    prepared, lowered = deep_residual(args.rounds)
    print(
        f"a residual network of {BLOCKS} blocks: prepared in {prepared:.1f} s (goal: {GOAL_PREPARED:g}), "
        f"lowered in {lowered:.1f} s (goal: {GOAL_LOWERED:g})"
    )
    return 0


def costs(subjects: Sequence[tuple[nn.Module, Tensor]], rounds: int) -> list[Cost]:
    """Return the median cost of each; they take turns, so that what slows the machine slows all of them."""
    found: list[list[Cost]] = [[] for _ in subjects]
    cost(nn.Sequential(Residual(), nn.Flatten(2), nn.Linear(256, 16), Transformer()), torch.randn(2, 8, 16, 16))
    with tqdm(total=rounds * len(subjects), disable=None) as bar:
        for _ in range(rounds):
            for (model, x), known in zip(subjects, found, strict=True):
                known.append(cost(model, x))
                bar.update()
    return [_median(known) for known in found]


def cost(model: nn.Module, x: Tensor) -> Cost:
    """Prepare the model and return what each stage cost."""
    passes: dict[str, float] = defaultdict(float)
    start = time.process_time()
    gm = trace(model, (x,))
    last = time.process_time()
    traced = last - start

    def note(event: PassEvent) -> None:
        nonlocal last
        now = time.process_time()
        passes[event.name] += now - last
        last = now

    qat_pipeline(target_of("onnxruntime"), config_of("w8a8")).run(gm, (note,))
    return Cost(traced, dict(passes), len(gm.graph.nodes))


def _median(costs: Sequence[Cost]) -> Cost:
    passes = {name: statistics.median(c.passes[name] for c in costs) for name in costs[0].passes}
    return Cost(statistics.median(c.trace for c in costs), passes, costs[0].nodes)


def stages(name: str, cost: Cost) -> list[str]:
    """Return a line per stage, and the goal's."""
    lines = [f"{'CPU seconds':<32}{name}"]
    lines += [f"{stage:<32}{seconds:.3f}" for stage, seconds in (("trace", cost.trace), *cost.passes.items())]
    return [*lines, f"{'prepare':<32}{cost.whole:.3f} (goal: {GOAL_SECONDS:g})", ""]


def growth(depths: Sequence[tuple[Family, int]], costs: Sequence[Cost]) -> list[str]:
    """Return a line per network: what it costs, and the exponent since the one before; a line per family for all."""
    lines = [f"{'family':<14}{'blocks':>7}{'nodes':>7}{'trace':>8}{'passes':>8}{'prepare':>9}{'exponent':>10}"]
    for family in FAMILIES:
        found = [(depth, cost) for (of, depth), cost in zip(depths, costs, strict=True) if of is family]
        for i, (depth, cost) in enumerate(found):
            grown = f"{exponent(found[i - 1][1], cost):.2f}" if i else ""
            seconds = f"{cost.trace:>8.2f}{cost.whole - cost.trace:>8.2f}{cost.whole:>9.2f}"
            lines.append(f"{family.name:<14}{depth:>7}{cost.nodes:>7}{seconds}{grown:>10}")
        whole = exponent(found[0][1], found[-1][1])
        lines.append(f"{family.name:<14}{'from the first to the last':<39}{whole:>10.2f} (goal: {GOAL_EXPONENT:g})")
    return lines


def exponent(small: Cost, large: Cost) -> float:
    """Return the power of the number of nodes with which the cost grows between the two."""
    return math.log(large.whole / small.whole) / math.log(large.nodes / small.nodes)


def deep_residual(rounds: int) -> tuple[float, float]:
    """Return the median CPU seconds of preparing and of lowering `BLOCKS` residual blocks, stem and classifier."""
    stem = (nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    blocks = [Residual() for _ in range(BLOCKS)]
    model = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).eval()
    x = torch.randn(2, 3, 16, 16)
    times: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            start = time.process_time()
            prepared = qatc.prepare(model, x)
            made = time.process_time()
            qatc.calibrate(prepared, [x], progress=False)
            before = time.process_time()
            qatc.lower(prepared, Path(folder, "model.onnx"))
            times.append((made - start, time.process_time() - before))
    return statistics.median(t for t, _ in times), statistics.median(t for _, t in times)


if __name__ == "__main__":
    sys.exit(main())
