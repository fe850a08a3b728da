"""Which input of a residual add stays raw, where the target fuses the sum into a convolution."""

import random

import networkx as nx
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, fx, nn

from qatc import ir
from qatc.calls import is_size
from qatc.dataflow import op_kind_of
from tests.models import conv
from tests.prepared import placed, reasons


class Random(nn.Module):
    """A backbone with adds whose branches diverge at any op before, hold any number of convolutions, and merge."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.choices = random.Random(seed)
        self.plan = [self.branch() for _ in range(5)]
        self.stem = conv(3, 4)
        self.convs = nn.ModuleList(conv(4, 4) for _ in range(sum(sum(lengths) for _, lengths in self.plan)))

    def branch(self) -> tuple[int, tuple[int, int]]:
        return self.choices.randrange(4), (self.choices.randrange(4), self.choices.randrange(4))

    def forward(self, x: Tensor) -> Tensor:
        made, convs = [F.relu(self.stem(x))], iter(self.convs)
        for back, lengths in self.plan:
            starts = made[-1], made[max(0, len(made) - 1 - back)]
            ends = []
            for start, length in zip(starts, lengths, strict=True):
                y = start
                for n in range(length):
                    y = next(convs)(F.relu(y) if n else y)
                    if n == 1:
                        made.append(y)  # a later branch may read it too
                ends.append(y)
            made.append(F.relu(ends[0] + ends[1]) if ends[0] is not ends[1] else ends[0])
        return made[-1]


def longest(graph: "nx.DiGraph[object]", start: object, end: object) -> int:
    """Return the number of ops on the longest path from one op to another that it dominates."""
    between = nx.descendants(graph, start) | {start}
    within = graph.subgraph(between & (nx.ancestors(graph, end) | {end}))
    steps: dict[object, int] = {}
    for node in nx.topological_sort(within):
        steps[node] = max((steps[n] + 1 for n in within.predecessors(node)), default=0)
    return steps[end]


def dominator_of(graph: "nx.DiGraph[object]", a: object, b: object) -> object:
    """Return the nearest op that every path from the start to either of the two passes."""
    above = nx.immediate_dominators(graph, "start")

    def chain(node: object) -> list[object]:
        found = [node]
        while found[-1] != "start":
            found.append(above[found[-1]])
        return found

    behind = set(chain(b))
    return next(node for node in chain(a) if node in behind)


def test_the_longer_way_from_the_nearest_common_dominator_stays_raw() -> None:
    assert sum(check_random(seed) for seed in range(12)) >= 5


def check_random(seed: int) -> int:
    """Check the adds of one network; return how many had convolutions on both sides."""
    gm = placed(Random(seed), "tensorrt")
    graph: nx.DiGraph[object] = nx.DiGraph()
    for node in gm.graph.nodes:
        if ir.referenced_module(node) is None:
            sources: list[object] = [*ir.tensor_inputs(node)]
            graph.add_edges_from((source, node) for source in sources or ["start"])
    both = 0
    for add in [node for node in gm.graph.nodes if op_kind_of(node) == "Add"]:
        inputs = ir.tensor_inputs(add)
        made = {node: node if ir.grid_source(node) is None else ir.tensor_inputs(node)[0] for node in inputs}
        alone = {node for node, maker in made.items() if op_kind_of(maker) == "Conv" and _reader_is_alone(maker)}
        raw = {node for node in inputs if ir.grid_source(node) is None}
        if not alone:
            assert ir.why_float(add) == "no quantized convolution in front takes the sum in"
            continue
        assert raw <= alone
        assert len(raw) == 1
        if len(alone) == 2:
            both += 1
            top = dominator_of(graph, *made.values())
            ways = {node: longest(graph, top, maker) for node, maker in made.items()}
            assert ways[raw.pop()] == max(ways.values())
    return both


def _reader_is_alone(node: fx.Node) -> bool:
    """Say whether one op reads the tensor, directly or through its grid."""
    readers = [user for user in node.users if not is_size(user)]
    if len(readers) == 1 and ir.grid_source(readers[0]) is readers[0]:
        readers = list(readers[0].users)
    return len(readers) == 1


def test_a_convolution_that_something_else_reads_too_takes_no_sum_in() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.short, self.a, self.b, self.tail = (
                conv(3, 4),
                conv(4, 4),
                conv(4, 4),
                conv(4, 4),
                conv(4, 4),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            deep = self.b(F.relu(self.a(x)))
            joined = deep + self.short(x)  # the longer way, but read once more below
            out: Tensor = self.tail(joined) + F.avg_pool2d(deep, 3, 1, 1)
            return out

    gm = placed(Net(), "tensorrt")
    first, second = (node for node in gm.graph.nodes if op_kind_of(node) == "Add")
    assert [str(node) for node in ir.tensor_inputs(first)] == snapshot(["b_q", "short"])
    assert [str(node) for node in ir.tensor_inputs(second)] == snapshot(["tail", "avg_pool2d_q"])


def test_reading_a_size_is_no_second_reader() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = conv(3, 4), conv(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.stem(x))
            y = self.body(x)
            out: Tensor = (y + x).reshape(y.shape[0], -1)
            return out

    assert reasons(placed(Net(), "tensorrt")) == snapshot({"reshape": "none of its inputs is on a grid"})
