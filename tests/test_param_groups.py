from typing import Any

import pytest
import torch
from torch import nn

import qatc
from tests.models import ResidualIdentity, images, randomise
from tests.prepared import prepared


def names(gm: nn.Module, group: dict[str, Any]) -> set[str]:
    return {name for name, p in gm.named_parameters() if any(p is other for other in group["params"])}


def test_what_quantizers_learn_has_a_group_without_weight_decay() -> None:
    gm = prepared(ResidualIdentity(), config="w4a4")
    weights, scales = qatc.param_groups(gm, lr=0.1, weight_decay=0.01, scale_lr=0.001)
    assert {k: v for k, v in weights.items() if k != "params"} == {"name": "weights", "lr": 0.1, "weight_decay": 0.01}
    assert {k: v for k, v in scales.items() if k != "params"} == {"name": "scales", "lr": 0.001, "weight_decay": 0.0}
    assert names(gm, scales) == {name for name, _ in gm.named_parameters() if "quantizer" in name or "_q." in name}
    assert names(gm, weights) == {name for name, _ in ResidualIdentity().named_parameters()}


def test_biases_and_norms_have_a_group_where_asked_for() -> None:
    gm = prepared(ResidualIdentity(), config="w4a4")
    found = {group["name"]: names(gm, group) for group in qatc.param_groups(gm, decay_biases=False, decay_norms=False)}
    norms = {
        f"{path}.{n}" for path, m in gm.named_modules() if isinstance(m, nn.BatchNorm2d) for n in ("weight", "bias")
    }
    assert found["no decay"] == norms | {name for name, _ in gm.named_parameters() if name.endswith("bias")}
    biases = qatc.param_groups(gm, decay_biases=False)[1]
    assert names(gm, biases) == {name for name, _ in gm.named_parameters() if name.endswith("bias")}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop])
def test_every_parameter_is_in_one_group_of_any_optimizer(kind: Any) -> None:
    gm = prepared(ResidualIdentity(), config="w4a4").train()
    for groups in (qatc.param_groups(gm), qatc.param_groups(gm, decay_norms=False, decay_biases=False)):
        optimizer = kind(groups, lr=0.01, weight_decay=0.1)
        given = [p for group in optimizer.param_groups for p in group["params"]]
        assert len(given) == len(set(given)) == len(list(gm.parameters()))
        gm(images()).square().mean().backward()
        optimizer.step()
        assert optimizer.param_groups[-1]["weight_decay"] == 0.0
        assert optimizer.param_groups[0]["weight_decay"] == 0.1


def test_shared_parameters_are_listed_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.two(self.one(x))
            return y

    gm = qatc.prepare(randomise(Tied()), torch.zeros(2, 8))
    (group,) = qatc.param_groups(gm)
    assert names(gm, group) == {"one.weight", "one.bias", "two.bias"}
    assert len(group["params"]) == 3


def test_a_model_without_learned_ranges_has_no_group_of_them() -> None:
    assert [group["name"] for group in qatc.param_groups(prepared(ResidualIdentity()))] == ["weights"]
