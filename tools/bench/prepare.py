"""Measures what `qatc.prepare` costs, in seconds of CPU time: of one model stage by stage, and of networks ever deeper.

    tools/bench/prepare [--model resnet50] [--size 224] [--rounds 5]

Each figure is a median; a tiny model is prepared first, so that imports are not counted.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from qatc.config import config_of
from qatc.passes import qat_pipeline
from qatc.pipeline import PassEvent
from qatc.targets import target_of
from qatc.trace import trace
from tools.models import model_named

STEP = 4  # how much deeper each network of a family is than the one before
GOAL_SECONDS, GOAL_RATIO = 2.0, 4.5


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
    """Networks of one kind of block; `depth` blocks in the shallowest."""

    name: str
    block: Callable[[], nn.Module]
    example: tuple[int, ...]
    depth: int


FAMILIES = (
    Family("convolutions", Residual, (2, 8, 16, 16), 20),
    Family("transformer", Transformer, (2, 10, 16), 7),
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
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    depths = [(family, family.depth * STEP**i) for family in FAMILIES for i in range(3)]
    subjects = [(model_named(args.model), torch.randn(2, 3, args.size, args.size))]
    subjects += [(nn.Sequential(*(f.block() for _ in range(depth))), torch.randn(f.example)) for f, depth in depths]
    whole, *chains = costs(subjects, args.rounds)
    print("\n".join(stages(f"{args.model} at {args.size}x{args.size}", whole)))
    print("\n".join(growth(depths, chains)))
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
    """Return a line per network: what it costs, and how many times what the one a quarter as deep does."""
    lines = [f"{'family':<14}{'blocks':>7}{'nodes':>7}{'trace':>8}{'passes':>8}{'prepare':>9}{'ratio':>7}"]
    ratios = []
    before: Cost | None = None
    for (family, depth), cost in zip(depths, costs, strict=True):
        ratio = "" if depth == family.depth or before is None else f"{cost.whole / before.whole:.2f}"
        ratios += [float(ratio)] if ratio else []
        seconds = f"{cost.trace:>8.2f}{cost.whole - cost.trace:>8.2f}{cost.whole:>9.2f}"
        lines.append(f"{family.name:<14}{depth:>7}{cost.nodes:>7}{seconds}{ratio:>7}")
        before = cost
    return [*lines, f"{STEP} times as deep: at most {max(ratios):.2f} times the cost (goal: {GOAL_RATIO:g})"]


if __name__ == "__main__":
    sys.exit(main())
