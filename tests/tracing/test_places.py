"""Every node knows the user's file and line, and the module that it is of."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from qatc import ir
from qatc.trace import trace
from tests.models import ResidualIdentity, conv, images, randomise
from tests.torchvision_networks import network
from tests.tracing.check_trace import place

HERE = Path(__file__).name


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bias = conv(4, 4), nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        y += self.bias
        y[:, 0] = 0.5
        return self.helper(y)

    def helper(self, y: Tensor) -> Any:
        b, c, *_ = y.shape
        return F.relu(y.view(b, c, -1)).reshape(y.shape)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Sequential(conv(3, 4), nn.ReLU()), nn.ModuleList([Block(), Block()])

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x) + torch.zeros(len(x), 1, 1, 1)
        return {"out": x, "deep": [x.mean((2, 3))]}


def calls(gm: fx.GraphModule) -> list[fx.Node]:
    return [n for n in gm.graph.nodes if n.op.startswith("call")]


def test_every_call_has_file_line_and_module() -> None:
    gm = trace(randomise(Net()), images())
    for node in calls(gm):
        assert ir.source_of(node).file == HERE, node.format_node()
        assert ir.source_of(node).line > 0
    by_name = {
        (ir.source_of(n).path, n.target if isinstance(n.target, str) else n.target.__name__): n for n in calls(gm)
    }
    expected = {
        ("stem.0", "stem.0"): (Net, "self.stem(x)"),
        ("blocks.1.conv", "blocks.1.conv"): (Block, "self.conv(x)"),
        ("blocks.0", "iadd"): (Block, "y += self.bias"),
        ("blocks.1", "setitem"): (Block, "y[:, 0]"),
        ("blocks.1", "relu"): (Block, "F.relu"),
        ("blocks.0", "view"): (Block, "F.relu"),
        ("", "mean"): (Net, "mean"),
        ("", "add"): (Net, "block(x) +"),
    }
    for key, (kind, text) in expected.items():
        assert ir.source_of(by_name[key]).location == place(kind, text), key


def test_inputs_and_parameters_have_their_names() -> None:
    gm = trace(randomise(Net()), images())
    paths = {n.op: ir.source_of(n).path for n in gm.graph.nodes if n.op in ("placeholder", "get_attr")}
    assert paths == {"placeholder": "x", "get_attr": "blocks.1.bias"}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_every_call_of_a_librarys_network_has_file_and_line(name: str) -> None:
    gm = trace(network(name), images(2, 3, 64, 64))
    assert all(ir.source_of(n).file.endswith(".py") and ir.source_of(n).line for n in calls(gm))
    assert {ir.source_of(n).path for n in calls(gm) if n.op == "call_module"} >= {
        "layer1.0.conv1"
    } or name != "resnet18"


@pytest.mark.parametrize("given", [images(), None])
def test_without_inputs_the_places_are_the_same(given: Tensor | None) -> None:
    gm = trace(randomise(ResidualIdentity()), given)
    assert {ir.source_of(n).location for n in calls(gm) if n.target == "head"} == {
        place(ResidualIdentity, "self.head(")
    }
