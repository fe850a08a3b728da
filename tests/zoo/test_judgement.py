"""What the zoo calls agreement, compute and float leaves: each check fails for what it is there to find."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import qatc
from qatc.lowering import lowered_proto
from tests.models import images
from tests.torchvision_networks import network
from tools.zoo_suites.agreement import Step, check_outputs, check_same_bits, check_step, loss_of
from tools.zoo_suites.compute import compute_of, multiply_adds
from tools.zoo_suites.expectation import Expectation
from tools.zoo_suites.leaves import float_leaves, foreign_names, weights_in
from tools.zoo_suites.outcome import Outcome
from tools.zoo_suites.reasons import Disagreement, reason_of
from tools.zoo_suites.table import markdown, summary, table
from tools.zoo_suites.weights import randomise

BASE = {"a": torch.linspace(-1, 1, 101), "b": torch.arange(4)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"a": BASE["a"] + 3e-4}, "output a parts by 3.0e-04, its values spread over 2.0e+00"),
        ({"a": BASE["a"].double()}, "output a is float64[101] instead of float32[101]"),
        ({"a": BASE["a"][None]}, "output a is float32[1, 101] instead of float32[101]"),
        ({"a": BASE["a"] * math.nan}, "output a parts by nan"),
        ({"b": torch.tensor([0, 1, 2, 4])}, "output b has 1 other values of 4"),
        ({"c": BASE["a"]}, "outputs a, b, c instead of a, b"),
    ],
)
def test_outputs_that_part_are_named(changed: dict[str, Tensor], said: str) -> None:
    check_outputs(BASE, BASE | {"a": BASE["a"] + 1e-4})
    with pytest.raises(Disagreement, match=f"^{said.replace('[', '.').replace('+', '.')}"):
        check_outputs(BASE, BASE | changed)


def test_values_that_are_nearly_one_may_part_by_their_own_rounding() -> None:
    tensor = torch.tensor([1.0, 1.0 + 2**-20])
    check_outputs({"": tensor}, {"": tensor + 2**-23})
    with pytest.raises(Disagreement, match="the output parts"):
        check_outputs({"": tensor}, {"": tensor + 2**-19})


def test_a_loaded_model_must_give_the_same_bits() -> None:
    check_same_bits(BASE, dict(BASE))
    with pytest.raises(Disagreement, match="output a has other bits"):
        check_same_bits(BASE, BASE | {"a": BASE["a"].nextafter(torch.ones(()))})


class Net(nn.Module):
    def __init__(self, change: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.change = change
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.drop = nn.Dropout(0.0 if change == "drop" else 0.25)
        self.bn.momentum = 0.3 if change == "momentum" else 0.1

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.bn(self.conv(x))).mean((2, 3))
        y = self.drop(y.detach() if self.change == "detach" else y)
        return self.fc(y * (1.1 if self.change == "scale" and self.training else 1.0))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("drop", "in training it draws nothing instead of 1 x rate 0.25"),
        ("momentum", "bn.running_mean moves otherwise in training"),
        ("detach", "4 parameters without a gradient: conv.weight, conv.bias, bn.weight"),
        ("scale", "the gradient of .* parts by .*, its greatest value is"),
    ],
)
def test_steps_of_training_that_part_are_named(change: str, said: str) -> None:
    inputs = (images(),)
    expected = Step(Net(), inputs)
    check_step(expected, Step(Net(), inputs))
    with pytest.raises(Disagreement, match=said):
        check_step(expected, Step(Net(change), inputs))


def test_a_step_leaves_the_model_as_it_was() -> None:
    net = Net().eval()
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    step = Step(net, (images(),))
    assert "bn.running_mean" in step.buffers
    assert not net.training
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_output_without_a_gradient_gives_no_loss() -> None:
    with pytest.raises(Disagreement, match="no output has a gradient"):
        loss_of({"ids": torch.arange(3), "constant": torch.ones(3)})


def stochastic_depth(x: Tensor) -> Tensor:
    keep = x.new_empty(x.shape[0], 1).bernoulli_(0.8)
    return x * keep.div_(0.8)


ATTENTION = nn.MultiheadAttention(8, 2, dropout=0.4)


@pytest.mark.parametrize(
    ("draw", "drawn"),
    [
        (lambda x: F.dropout(x, 0.3), {"rate 0.3": 1}),
        (lambda x: F.dropout(x, p=0.3, training=False), {}),
        (lambda x: nn.Dropout2d(0.2)(x[..., None, None])[..., 0, 0], {"rate 0.2": 1}),
        (lambda x: x + F.scaled_dot_product_attention(x, x, x, dropout_p=0.1) * 0, {"rate 0.1": 1}),
        (lambda x: x + ATTENTION(x, x, x)[0] * 0, {"rate 0.4": 1}),
        (lambda x: x + ATTENTION.eval()(x, x, x)[0] * 0, {}),
        (stochastic_depth, {"rate 0.2": 1}),
        (lambda x: x / 0.9 * (0.9 + torch.rand(x.shape[0], 1)).floor_(), {"rate 0.1": 1}),
        (lambda x: x / 0.75 * torch.floor(torch.rand(x.shape[0], 1) + 0.75), {"rate 0.25": 1}),
        (lambda x: x + 0 * torch.rand(8), {}),
    ],
)
def test_random_draws_give_their_expectation(draw: Callable[[Tensor], Tensor], drawn: dict[str, int]) -> None:
    x = torch.randn(4, 8)
    ATTENTION.train()
    with Expectation() as chance:
        result = draw(x)
    assert torch.allclose(result, x)
    assert chance.drawn == drawn


def test_an_all_quantized_network_is_counted_alike_from_either_side() -> None:
    model = network("resnet18")
    found = compute_of(model, qatc.prepare(model, (images(2, 3, 64, 64),)), (images(1, 3, 64, 64),))
    sizes: dict[nn.Module, int] = {}
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, _, y: sizes.update({m: y.numel() * m.weight[0].numel()}))
    model(images(1, 3, 64, 64))
    assert found.original == found.prepared == found.quantized == sum(sizes.values())
    assert found.share == 1.0


def test_compute_in_float_counts_as_float() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.lstm = nn.Linear(8, 16), nn.LSTM(16, 24, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.lstm(self.first(x))[0]

    model, x = Half().eval(), torch.randn(2, 5, 8)
    found = compute_of(model, qatc.prepare(model, (x,)), (x[:1],))
    assert (found.quantized, found.original) == (5 * 8 * 16, 5 * (8 * 16 + 4 * 24 * (16 + 24)))


def test_compute_on_parameters_alone_is_not_counted_as_it_is_not_in_the_file() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.project = nn.Parameter(torch.randn(5, 8)), nn.Linear(8, 16)
            self.read, self.norm = nn.Linear(8, 16), nn.LayerNorm(16)

        def forward(self, x: Tensor) -> Any:
            return self.norm(self.read(x)) + self.project(self.table)

    model, x = Positions().eval(), torch.randn(2, 5, 8)
    prepared = qatc.prepare(model, (x,))
    found = compute_of(model, prepared, (x,))
    assert (found.original, found.quantized, found.folded) == (3 * 5 * 8 * 16, 2 * 5 * 8 * 16, 5 * 8 * 16)
    assert found.share == 1.0
    qatc.calibrate(prepared, [(x,)], progress=False)
    ops = [node.op_type for node in lowered_proto(prepared).proto.graph.node]
    assert ops.count("MatMul") + ops.count("Gemm") == 1


def test_attention_is_counted_whatever_its_spelling() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return F.scaled_dot_product_attention(x, x, x)

    assert multiply_adds(Attention(), (torch.randn(1, 2, 6, 4),))[0] == 2 * 2 * 6 * 6 * 4


class Leaf(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)


def test_what_no_pass_sees_into_is_a_float_leaf() -> None:
    root = nn.Sequential(nn.Linear(4, 4), Leaf(), nn.ReLU())
    graph = fx.Graph()
    x = graph.placeholder("x")
    for name in ("0", "1", "2"):
        x = graph.call_module(name, (x,))
    graph.output(graph.call_function(reason_of, (x,)))
    gm = fx.GraphModule(root, graph)
    assert list(float_leaves(gm)) == ["1"]
    assert weights_in(float_leaves(gm).values()) == 20
    assert foreign_names(gm) == ["tests.zoo.test_judgement.Leaf", "tools.zoo_suites.reasons.reason_of"]


def test_everything_that_begins_as_a_constant_is_moved() -> None:
    class Fresh(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LayerNorm(8)
            self.scale, self.head = nn.Parameter(torch.full((8,), 1e-6)), nn.Linear(8, 2)
            nn.init.zeros_(self.head.weight)

        def forward(self, x: Tensor) -> Any:
            return self.head(self.norm(self.bn(self.conv(x)).mean((2, 3))) * self.scale)

    model = Fresh()
    before = model.conv.weight.clone()
    randomise(model, (images(),))
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        assert value.numel() == 1 or float(value.detach().std()) > 1e-3, name
    assert model.scale.min() > 0.1
    assert torch.equal(model.conv.weight, before)
    assert not any(module.training for module in model.modules())


NOTES = ["specialised on x", "m reads the value of a constant"]
OUTCOMES = (
    Outcome("resnet", "verify", share=1.0, seconds={"prepare": 0.51, "lower": 4.0}),
    Outcome("gated", "save", share=0.5, leaves=["gate"], hidden=1234, notes=NOTES, allowed=["m.Gate"]),
    Outcome("raft", "prepare", "TraceError: a | b", seconds={"prepare": 0.2}),
)


def test_the_table_shows_how_far_each_came() -> None:
    assert table(OUTCOMES).splitlines() == [
        "model   stage         quantized  leaves  hidden  forced  prepare s  all s  reason",
        "---------------------------------------------------------------------------------",
        "resnet  ok              100.0 %       -       -       -        0.5    4.5",
        "gated   ok (to save)     50.0 %       1   1,234       1          -    0.0",
        "raft    prepare               -       -       -       -        0.2    0.2  TraceError: a | b",
    ]
    assert markdown(OUTCOMES).splitlines()[1:5:3] == [
        "| --- | --- | --: | --: | --: | --: | --: | --: | --- |",
        "| raft | prepare | - | - | - | - | 0.2 | 0.2 | TraceError: a \\| b |",
    ]
    assert summary("mine", OUTCOMES) == (
        "mine: 2 of 3 passed (66.7 %); stopped at: prepare 1; "
        "multiply-adds quantized: 75.0 % on average, least 50.0 % in gated; "
        "loaded with classes or functions of their own allowed: 1"
    )
