"""Random programs that take views of a tensor and write through them: the rewritten graph computes what they do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from qatc.passes import DedupModules, Functionalize
from qatc.pipeline import Pipeline
from qatc.trace import trace
from tests.models import images

View = Callable[[Tensor], Tensor]
Write = Callable[[Tensor, Tensor], Any]

VIEWS: dict[str, View] = {
    "[:, 0]": lambda x: x[:, 0] if x.ndim > 2 else x[:1],
    "[..., 1:]": lambda x: x[..., 1:],
    "[None]": lambda x: x[None],
    "transpose": lambda x: x.transpose(-1, 0),
    "permute": lambda x: x.permute(*range(1, x.ndim), 0),
    "narrow": lambda x: x.narrow(-1, 0, 1),
    "unflatten": lambda x: x.unflatten(0, (1, -1)),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "same": lambda x: x.view(x.shape),
    "chunk": lambda x: x.chunk(2, -1)[1] if x.shape[-1] > 1 else x.chunk(1, dim=-1)[0],
    "split": lambda x: torch.split(x, 1, dim=-1)[-1],
    "unbind": lambda x: x.unbind(1)[0] if x.ndim > 2 else x.unbind(-1)[0][:, None],
    "[[0]]": lambda x: x[[0]],  # a copy
}


def _assign(x: Tensor, y: Tensor) -> None:
    x[..., 0] = y.sum()


WRITES: dict[str, Write] = {
    "add_": lambda x, y: x.add_(1.0),
    "mul_": lambda x, y: x.mul_(y.mean()),
    "[..., 0] =": _assign,
    "relu_": lambda x, y: torch.relu_(x),
    "zero_": lambda x, y: x.zero_(),
    "copy_": lambda x, y: x.copy_(y.sum()),
}
STEPS = st.tuples(st.sampled_from([*VIEWS, *WRITES]), st.integers(0, 7), st.integers(0, 7))


class Program(nn.Module):
    """Takes views of names so far, writes to names so far, and reads some of all names in the end."""

    def __init__(self, steps: list[tuple[str, int, int]], read: list[int]) -> None:
        super().__init__()
        self.steps, self.read = steps, read

    def forward(self, x: Tensor) -> Any:
        names = [x.neg(), x * 2]
        for op, first, second in self.steps:
            a, b = names[first % len(names)], names[second % len(names)]
            if op in VIEWS:
                names.append(VIEWS[op](a))
            else:
                WRITES[op](a, b)
        return [names[i % len(names)] + 0.0 for i in self.read]


@pytest.mark.filterwarnings("ignore:the batch is fixed:qatc.QatcWarning")  # by a part along it
@settings(deadline=None, max_examples=60)
@given(st.lists(STEPS, min_size=1, max_size=8), st.lists(st.integers(0, 9), min_size=1, max_size=3))
def test_what_a_program_writes_through_views_is_read_by_every_name(
    steps: list[tuple[str, int, int]], read: list[int]
) -> None:
    model, x = Program(steps, read), images(3, 2, 4)
    expected = model(x.clone())
    gm = trace(model, [x])
    Pipeline((DedupModules(), Functionalize())).run(gm)
    for got, wanted in zip(gm(x.clone()), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)  # sums of 24 float32 in another order


@pytest.mark.parametrize("steps", [
    [("[..., 1:]", 0, 0), ("add_", 2, 0), ("[..., 0] =", 0, 1)],
    [("[..., 1:]", 0, 0), ("[:, 0]", 2, 0), ("add_", 3, 0), ("mul_", 2, 1), ("zero_", 0, 0)],
], ids=["a part, then the whole", "a part of a part, the part, then the whole"])  # fmt: skip
def test_a_view_shows_what_is_written_to_its_whole_after_it_was_written_itself(
    steps: list[tuple[str, int, int]],
) -> None:
    model, x = Program(steps, [0, 2, 3]), images(3, 2, 4)
    gm = trace(model, [x])
    Pipeline((DedupModules(), Functionalize())).run(gm)
    for got, wanted in zip(gm(x.clone()), model(x.clone()), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
