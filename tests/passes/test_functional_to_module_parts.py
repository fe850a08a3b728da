"""What functional-to-module makes of parts of tensors, of what is computed from parameters, and of stochastic depth."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, fx, nn

from qatc import ir
from qatc.modules import ops
from qatc.passes import FunctionalToModule
from qatc.prepared import PreparedModel
from qatc.trace import record_types
from tests.check_pass import check_pass, check_same_function
from tests.models import conv, images, randomise

TOKENS = images(4, 6, 8)


class Parts(nn.Module):
    """Parts of a tensor in several writings, and parts that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        a, _ = y.chunk(2, dim=1)
        b, _, c = torch.split(y, [2, 1, 1], 1)
        return torch.cat([a * b, c, y[:, :1], y.unbind(1)[3][:, None]], 1)


def test_every_part_that_is_read_is_a_module() -> None:
    check_pass(
        FunctionalToModule(),
        Parts(),
        snapshot("""\
-%chunk = chunk(%conv, 2, dim=1)
-%getitem = getitem(%chunk, 0) : f32[N,2,8,8]
-%split = split(%conv, [2, 1, 1], dim=1)
-%getitem_2 = getitem(%split, 0) : f32[N,2,8,8]
-%getitem_4 = getitem(%split, 2) : f32[N,1,8,8]
-%mul = mul(%getitem, %getitem_2) : f32[N,2,8,8]
-%getitem_5 = getitem(%conv, (slice(None, None, None), slice(None, 1, None))) : f32[N,1,8,8]
-%unbind = unbind(%conv, 1)
-%getitem_9 = getitem(%unbind, 3) : f32[N,8,8]
-%getitem_10 = getitem(%getitem_9, (slice(None, None, None), None)) : f32[N,1,8,8]
-%cat = cat([%mul, %getitem_4, %getitem_5, %getitem_10], 1) : f32[N,5,8,8]
+%getitem = Chunk(%conv) : f32[N,2,8,8]  chunks=2 dim=1  # chunk
+%getitem_2 = Split(%conv) : f32[N,2,8,8]  split_size_or_sections=(2, 1, 1) dim=1  # split
+%getitem_4 = Split(%conv) : f32[N,1,8,8]  split_size_or_sections=(2, 1, 1) dim=1 index=2  # split_1
+%mul = Mul(%getitem, %getitem_2) : f32[N,2,8,8]  # mul
+%getitem_5 = Slice(%conv) : f32[N,1,8,8]  index=(slice(None, None, None), slice(None, 1, None))  # slice
+%getitem_9 = Select(%conv) : f32[N,8,8]  dim=1 index=3  # unbind
+%getitem_10 = Slice(%getitem_9) : f32[N,1,8,8]  index=(slice(None, None, None), None)  # slice_1
+%cat = Concat([%mul, %getitem_4, %getitem_5, %getitem_10]) : f32[N,5,8,8]  dim=1  # concat
"""),
    )


def test_what_is_computed_from_parameters_stays() -> None:
    """A weight that the model normalizes is no activation: its steps get no grids."""
    root = nn.Module()
    root.weight = nn.Parameter(images(5, 8))
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.get_attr("weight")
    centred = graph.call_function(torch.sub, (weight, graph.call_method("mean", (weight, 1, True))))
    graph.output(graph.call_function(torch.relu, (graph.call_function(F.linear, (x, centred)),)))
    gm = PreparedModel(root, graph)
    FunctionalToModule().run(gm)
    assert [n.op for n in gm.graph.nodes] == snapshot(
        ["placeholder", "get_attr", "call_method", "call_function", "call_function", "call_module", "output"]
    )
    assert not ir.why_float(gm.graph.find_nodes(op="call_function", target=torch.sub)[0])


class DropPath(nn.Module):
    """Stochastic depth as timm has it."""

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob, self.scale_by_keep = drop_prob, scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        random = x.new_empty((x.shape[0], *[1] * (x.ndim - 1))).bernoulli_(keep_prob)
        if keep_prob > 0.0 and self.scale_by_keep:
            random.div_(keep_prob)
        return x * random


class StochasticDepth(nn.Module):
    """Stochastic depth as torchvision has it."""

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        size = [x.shape[0] if self.mode == "row" else 1] + [1] * (x.ndim - 1)
        noise = torch.empty(size, dtype=x.dtype).bernoulli_(1.0 - self.p)
        return x * (noise.div_(1.0 - self.p) if self.p < 1.0 else noise)


class Branch(nn.Module):
    """A residual branch that is dropped at random."""

    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        self.conv, self.drop = conv(3, 3), drop

    def forward(self, x: Tensor) -> Any:
        return x + self.drop(self.conv(x))


class Leaves(fx.Tracer):
    """Keeps a user's module whose forward reads its mode as one call."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in (DropPath, StochasticDepth) or super().is_leaf_module(m, module_qualified_name)


@pytest.mark.parametrize("drop", [
    DropPath(0.4), DropPath(0.4, scale_by_keep=False), DropPath(), StochasticDepth(0.5, "row"),
    StochasticDepth(0.5, "batch"), StochasticDepth(1.0, "row"),
], ids=repr)  # fmt: skip
def test_stochastic_depth_follows_the_mode(drop: nn.Module) -> None:
    model = randomise(Branch(drop))
    root = copy.deepcopy(model)
    gm = PreparedModel(root, Leaves().trace(root), "Branch")
    record_types(gm, [images()])
    assert FunctionalToModule().run(gm)
    assert not FunctionalToModule().run(gm)
    assert isinstance(gm.get_submodule("drop"), ops.StochasticDepth)
    check_same_function(model, gm, [images()])
    assert [ir.module_of(n).__class__.__name__ for n in gm.graph.nodes if n.op == "call_module"] == snapshot(
        ["Conv2d", "StochasticDepth", "Add"]
    )
