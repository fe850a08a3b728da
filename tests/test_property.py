"""Random small networks: what holds for every network holds for those that nobody thought of."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qatc
from qatc.config import PRESETS
from qatc.passes import qat_pipeline
from qatc.pipeline import check_invariants
from qatc.printer import format_graph
from qatc.targets import TARGETS
from qatc.trace import trace
from tests.check_pass import check_same_function, trained
from tests.models import images, randomise

CHANNELS = 4
STEPS = (
    "conv", "conv_bn", "conv_bn_relu", "linear_bn", "bn", "relu", "relu6", "hardtanh", "sigmoid", "inplace", "pool",
    "mean", "dropout", "number", "add", "mul", "cat", "again", "split",
)  # fmt: skip
# What each step does, and which earlier tensor it reads besides the last.
Plan = list[tuple[str, int]]


class Random(nn.Module):
    """A network of the planned steps; all tensors are [N, 4, 8, 8]."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.layers = nn.ModuleList(self.layer(step) for step, _ in plan)
        if "again" in dict(plan):
            self.shared = nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.BatchNorm2d(CHANNELS), nn.ReLU())
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)

    @staticmethod
    def layer(step: str) -> nn.Module:
        conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=step == "conv")
        match step:
            case "conv":
                return conv
            case "conv_bn":
                return nn.Sequential(conv, nn.BatchNorm2d(CHANNELS))
            case "conv_bn_relu":
                return nn.Sequential(conv, nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True))
            case "linear_bn":
                return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm2d(CHANNELS))
            case "bn":
                return nn.BatchNorm2d(CHANNELS)
            case "cat":
                return nn.Conv2d(2 * CHANNELS, CHANNELS, 1)
            case "pool":
                return nn.MaxPool2d(3, stride=1, padding=1)
            case _:
                return nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        tensors: list[Tensor] = [self.stem(x)]
        for (step, back), layer in zip(self.plan, self.layers, strict=True):
            tensors.append(self.step(step, layer, tensors[-1], tensors[-1 - back % len(tensors)]))
        return tensors[-1]

    def step(self, step: str, layer: nn.Module, x: Tensor, other: Tensor) -> Any:
        match step:
            case "relu":
                return F.relu(x)
            case "relu6":
                return F.relu6(x)
            case "hardtanh":
                return x.clamp(-1.5, 1.0)
            case "sigmoid":
                return torch.sigmoid(x)
            case "inplace":
                return F.relu(x + 0.1, inplace=True)
            case "mean":
                return x * x.mean((2, 3), keepdim=True)
            case "dropout":
                return F.dropout(x, 0.2, self.training)
            case "number":
                return 0.5 * x + 1
            case "add":
                return x + other
            case "mul":
                return x * torch.sigmoid(other)
            case "cat":
                return layer(torch.cat([x, other], 1))
            case "again":
                return self.shared(x)
            case "split":
                first, second = x.chunk(2, 1)
                return torch.cat([second, first], dim=1)
            case _:
                return layer(x)


plans = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 6)), min_size=1, max_size=9)
random_network = settings(
    deadline=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
targets, configs = st.sampled_from(sorted(TARGETS)), st.sampled_from(sorted(PRESETS))


@random_network
@given(plan=plans, target=targets, config=configs)
def test_the_pipeline_keeps_the_function_its_invariants_and_itself(plan: Plan, target: str, config: str) -> None:
    model = randomise(Random(plan))
    gm = trace(model, [images()])
    pipeline = qat_pipeline(TARGETS[target], PRESETS[config])
    pipeline.run(gm)
    check_invariants(gm, {invariant for step in pipeline for invariant in step.ensures}, "the pipeline")
    text = format_graph(gm)
    assert [step.name for step in pipeline if step.run(gm)] == []
    assert format_graph(gm) == text
    # Products of products: relative errors add up from layer to layer.
    check_same_function(model, gm, [images()], tolerance=2e-4)


@random_network
@given(plan=plans, target=targets, config=configs)
def test_a_calibrated_network_trains_and_then_evaluates_the_same_twice(plan: Plan, target: str, config: str) -> None:
    gm = qatc.prepare(randomise(Random(plan)), images(), target, config)
    qatc.calibrate(gm, [images()], progress=False)
    trained(gm, [images()])
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in gm.parameters())
    torch.optim.SGD(gm.parameters(), lr=1e-3).step()
    state = copy.deepcopy(gm.eval().state_dict())
    first = gm(images(seed=1)).detach()
    assert bool(torch.isfinite(first).all())
    assert torch.equal(gm(images(seed=1)), first)
    assert all(torch.equal(v, state[k]) for k, v in gm.state_dict().items())


@random_network
@given(plan=plans, target=targets)
def test_every_op_is_in_the_report_quantized_or_with_a_reason(plan: Plan, target: str) -> None:
    gm = qatc.prepare(Random(plan), images(), target)
    rows = gm.report.rows
    assert len({row.name for row in rows if row.weight}) == sum(bool(row.weight) for row in rows)
    for row in rows:
        assert bool(row.reason) != row.quantized
        assert row.quantized or not row.weight
