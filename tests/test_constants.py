import torch
from torch import Tensor, nn

from qatc.constants import constants, value_of, values_of
from qatc.trace import trace
from tests.models import images


class Weights(nn.Module):
    """Tensors that depend on parameters alone, on chance, and on data."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.drop = nn.Parameter(torch.ones(3)), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        scaled = self.drop(self.w * 2.0)
        noise = torch.rand_like(self.w)
        result: Tensor = x * scaled[:, None, None] + (noise.sum() + x.mean())
        return result


def test_constants_depend_on_no_input_and_not_on_chance() -> None:
    gm = trace(Weights())
    known = {node.name for node in constants(gm.graph)}
    assert {"w", "mul", "drop", "getitem"} <= known
    assert known.isdisjoint({"x", "rand_like", "mean", "output"})


def test_their_value_is_that_of_eval_mode_and_nothing_changes() -> None:
    gm = trace(Weights(), images()).train()
    node = next(n for n in gm.graph.nodes if n.target == "drop")
    value = value_of(gm, node)
    assert torch.equal(value, torch.full((3,), 2.0))
    assert not value.requires_grad
    assert all(module.training for module in gm.modules())
    assert values_of(gm, []) == {}
