from collections import Counter

import torch
from torch import Tensor, fx, nn

from qatc import ir
from qatc.rewrite import Call, Chain, Op, Rule, apply, optional
from qatc.trace import trace
from tests.models import conv

CHAIN = Chain((Op((nn.Conv2d,)), optional(nn.BatchNorm2d), optional(nn.ReLU, nn.ReLU6)))


def matched(model: nn.Module) -> list[list[str | None]]:
    """Return what the chain matches at each node that it begins at."""
    found = [CHAIN.match(node) for node in trace(model).graph.nodes]
    return [[None if node is None else node.name for node in match] for match in found if match is not None]


def test_a_chain_has_a_node_or_none_for_each_link() -> None:
    assert matched(nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU6())) == [["_0", "_1", "_2"]]
    assert matched(nn.Sequential(conv(3, 4), nn.ReLU())) == [["_0", None, "_1"]]
    assert matched(nn.Sequential(conv(3, 4), nn.Tanh(), nn.ReLU())) == [["_0", None, None]]
    assert matched(nn.Sequential(nn.ReLU(), conv(3, 4), conv(4, 4), nn.ReLU())) == [
        ["_1", None, None],
        ["_2", None, "_3"],
    ]


def test_a_link_that_something_else_reads_too_ends_a_chain() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = conv(3, 4), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return torch.add(self.relu(y), y)

    assert matched(Twice()) == [["conv", None, None]]


def test_a_link_that_is_not_optional_must_be_there() -> None:
    chain = Chain((Op((nn.Conv2d,)), Op((nn.ReLU,))))
    nodes = list(trace(nn.Sequential(conv(3, 4), nn.Tanh(), nn.ReLU())).graph.nodes)
    assert [chain.match(node) for node in nodes] == [None] * len(nodes)


def test_the_first_rule_that_does_something_wins_and_each_is_counted() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(torch.relu(x).relu())

    def becomes(name: str) -> Rule:
        def rewrite(gm: fx.GraphModule, node: fx.Node) -> bool:
            node.op, node.target = "call_method", name
            return True

        return Rule(name, Call((torch.relu, "relu")), rewrite)

    declines = Rule("declines", Call((torch.relu, torch.tanh)), lambda gm, node: False)
    gm = trace(Net())
    assert apply(gm, (declines, becomes("sigmoid"), becomes("exp"))) == Counter(sigmoid=2)
    assert [node.target for node in gm.graph.nodes if node.op == "call_method"] == ["sigmoid", "sigmoid"]


def test_what_nothing_calls_any_more_is_dropped() -> None:
    def drop(gm: fx.GraphModule, node: fx.Node) -> bool:
        node.replace_all_uses_with(node.all_input_nodes[0])
        gm.graph.erase_node(node)
        return True

    gm = trace(nn.Sequential(conv(3, 4), nn.Tanh()))
    apply(gm, (Rule("tanh", Chain((Op((nn.Tanh,)),)), drop),))
    assert ir.get_module(gm, "1") is None
    assert apply(gm, (Rule("tanh", Chain((Op((nn.Tanh,)),)), drop),)) == Counter()
