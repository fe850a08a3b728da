"""Functions that stay functions, sizes that follow the batch, and tensors made of them: written by the table."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qatc.lowering.emit import pieces
from tests.lowering.float_files import Function, check_file, float_file, ops
from tests.models import images

FEW, MORE = images(2, 4, 6), images(5, 4, 6, seed=1)

FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "where": lambda x: torch.where(x > 0, x, 2.0),
    "where of numbers": lambda x: torch.where(x.abs() >= 0.5, 1.0, 0.0),
    "comparisons": lambda x: ((x < 0.5) & (x != 0)) | ~(x <= x.mean()),
    "of integers": lambda x: ((x * 4).long() == 1) ^ ((x * 4).int() > 0.5),
    "of bools": lambda x: torch.logical_not((x > 0) == (x > 1)),
    "masked_fill": lambda x: x.masked_fill(x > 0, -1.0),
    "to": lambda x: (x > 0).to(torch.float32) + (x * 3).to(torch.int64),
    "cumsum": lambda x: (x > 0).cumsum(1) + x.cumsum(-1),
    "tril": lambda x: x.tril() + torch.triu(x, diagonal=1),
    "arange": lambda x: torch.arange(x.shape[0]) + torch.arange(1, x.shape[0] + 1) * 2,
    "arange of floats": lambda x: torch.arange(x.shape[0], dtype=torch.float32),
    "zeros": lambda x: torch.zeros(x.shape[0], 3) + x.new_ones((x.shape[0], 3), dtype=torch.int64),
    "full": lambda x: torch.full((x.shape[0], 2), 0.5) + torch.full_like(x[..., :2].mean(1), fill_value=2),
    "zeros_like": lambda x: torch.zeros_like(x, dtype=torch.bool) | torch.ones_like(x).bool(),
    "rounding": lambda x: x.round() + torch.floor(x) + x.ceil() + x.sign(),
    "positions": lambda x: x[:, torch.tensor([2, 0])] + x[:, [1, 1]],
    "positions together": lambda x: x[torch.arange(x.shape[0])[:, None], torch.tensor([1, 0, 3])[None]],
    "integers": lambda x: ((x * 9).long().clamp(min=-2) + 3)[:, None].abs().expand(-1, 2, -1, -1).transpose(1, 2),
    "a convolution by data": lambda x: F.conv1d(x, x[:1, :, :3].mean(0, keepdim=True), padding=1),
    "a product by data": lambda x: F.linear(x, x[0], x[0, :, 0]),
    "max of two": lambda x: torch.maximum((x * 5).long(), (x * 3).long()),
}
SIZES: dict[str, Callable[[Tensor], Any]] = {
    "rows of all": lambda x: x.reshape(x.shape[0] * 4, 2, 3),
    "windows": lambda x: x.reshape(x.shape[0] * 4, 6).reshape(-1, 4, 6)[:, :, None].expand(x.shape[0], 4, 2, 6),
    "repeated": lambda x: x.mean(0, keepdim=True).expand(x.shape[0], -1, -1),
    "repeated by data": lambda x: torch.ones(1, 4, 1).expand_as(x) + torch.ones(1, 4, 1).repeat(x.shape[0], 1, 6),
    "divided": lambda x: torch.zeros(-(-x.shape[0] // 2), -(-x.shape[0] // -3) * -1 + 4),
    "arithmetic": lambda x: x.sum() / x.shape[0] + x.new_zeros(x.size(0) % 3 + 2),
    "two that follow": lambda x: x.new_zeros(x.shape[0], 2, x.shape[0]).reshape(x.shape[0], x.shape[0] * 2),
    "all": lambda x: torch.ones(x.numel()) * len(x.shape),
}


@pytest.mark.parametrize("function", [*FUNCTIONS.values(), *SIZES.values()], ids=[*FUNCTIONS, *SIZES])
def test_it_is_written_by_the_table(function: Callable[[Tensor], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "exported", None)  # torch's exporter is not needed
    model = Function(function)
    proto = float_file(model, FEW)
    assert "Identity" not in ops(proto)
    # Where sums are taken, in an order of the runtime's own, they are off by a few of the last of 24 bits.
    check_file(proto, model, MORE, tolerance=1e-6 if proto.graph.output[0].type.tensor_type.elem_type == 1 else 0.0)


def test_what_depends_on_no_input_is_a_constant() -> None:
    def positions(x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], device=x.device)
        mask = x.new_ones(x.shape[1:], dtype=torch.bool) & (steps[:, None] >= torch.zeros_like(x[0]))
        return torch.where(mask, x.view(x.size(0), 4, x.size(-1)), torch.full_like(x[0], -1.0))

    proto = float_file(Function(positions), FEW)
    assert ops(proto) == ["Reshape", "Where"]
    check_file(proto, Function(positions), MORE)


def test_a_size_is_read_once() -> None:
    def model(x: Tensor) -> Any:
        return torch.zeros(x.shape[0]), torch.ones(x.shape[0], 2), torch.arange(x.shape[0])

    assert ops(float_file(Function(model), FEW)).count("Shape") == 1
