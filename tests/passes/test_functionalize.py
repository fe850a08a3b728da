"""Overwritten tensors become new ones, and what reads the old memory later reads those."""

import operator
import re
from typing import Any

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, fx, nn

from qatc.errors import TraceError
from qatc.passes import Functionalize
from qatc.prepared import PreparedModel
from qatc.trace import trace
from tests.check_pass import check_pass
from tests.models import Inplace, InplaceUnknown, InplaceView, conv, images


def test_what_reads_an_overwritten_tensor_reads_the_result() -> None:
    check_pass(
        Functionalize(),
        Inplace(),
        snapshot("""\
-%iadd = iadd(%a, 0.5) : f32[N,4,8,8]
+%iadd = add(%a, 0.5) : f32[N,4,8,8]
-%hardtanh = hardtanh(%b, min_val=0.0, max_val=2.0, inplace=True) : f32[N,4,8,8]
+%hardtanh = hardtanh(%b, min_val=0.0, max_val=2.0, inplace=False) : f32[N,4,8,8]
"""),
    )


def test_a_call_that_overwrites_and_has_no_module_form_is_read_instead() -> None:
    check_pass(
        Functionalize(),
        InplaceUnknown(),
        snapshot("""\
-%cumsum_ = cumsum_(%a, 1) : f32[N,4,8,8]
+%cumsum_ = cumsum(%a, 1) : f32[N,4,8,8]
"""),
    )


def test_overwriting_through_a_view_is_an_error_with_a_place() -> None:
    gm = trace(InplaceView(), [images()])
    with pytest.raises(TraceError) as caught:
        Functionalize().run(gm)
    assert re.sub(r"py:\d+", "py:LINE", str(caught.value)) == snapshot("""\
%relu overwrites what may be the memory of %reshape and of %conv, of which one is read afterwards
  at: models.py:LINE
  try: write the result to a new tensor: relu instead of relu_, x = x + y instead of x += y\
""")


class Assigns(nn.Module):
    """A part of a tensor is assigned, and another is written through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(4, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        y[:, 1:] = y[:, :-1].relu()
        first = y[:, 0]
        first *= 2.0
        return self.b(y)


def test_assigning_to_a_part_gives_a_new_tensor() -> None:
    check_pass(
        Functionalize(),
        Assigns(),
        snapshot("""\
-%setitem = setitem(%a, (slice(None, None, None), slice(1, None, None)), %relu)
-%getitem_1 = getitem(%a, (slice(None, None, None), 0)) : f32[N,8,8]
-%imul = imul(%getitem_1, 2.0) : f32[N,8,8]
-%b = Conv2d(%a) : f32[N,4,8,8]  k3 p1  # b
+%setitem = Assign(%a, %relu) : f32[N,4,8,8]  index=(slice(None, None, None), slice(1, None, None))  # assign
+%getitem_1 = getitem(%setitem, (slice(None, None, None), 0)) : f32[N,8,8]
+%imul = mul(%getitem_1, 2.0) : f32[N,8,8]
+%assign_1 = Assign(%setitem, %imul) : f32[N,4,8,8]  index=(slice(None, None, None), 0)  # assign_1
+%b = Conv2d(%assign_1) : f32[N,4,8,8]  k3 p1  # b
"""),
    )


def test_state_that_the_model_overwrites_stays_overwritten() -> None:
    root = nn.Module()
    root.calls = nn.Buffer(torch.zeros(1))
    graph = fx.Graph()
    x, calls = graph.placeholder("x"), graph.get_attr("calls")
    graph.call_method("add_", (calls, 1))
    graph.call_function(operator.setitem, (calls, slice(0, 1), graph.call_function(torch.mul, (calls, 2))))
    graph.output(graph.call_function(torch.mul, (x, calls)))
    gm = PreparedModel(root, graph)
    Functionalize().run(gm)
    assert [gm(torch.ones(1)).item() for _ in range(3)] == [2.0, 6.0, 14.0]


@pytest.mark.parametrize("form", [
    lambda y: (y.contiguous().add_(1), y),
    lambda y: (y.flatten(1).add_(1), y),
    lambda y: (y.mean(1, keepdim=True).expand_as(y), y.expand(4, 4, 8, 8).add_(1), y),
], ids=["perhaps a copy", "flattened", "expanded"])  # fmt: skip
@pytest.mark.filterwarnings("ignore:the batch is fixed:qatc.QatcWarning")  # to what it is expanded to
def test_what_may_be_a_view_is_not_guessed(form: Any) -> None:
    class Guess(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            return form(self.conv(x))

    with pytest.raises(TraceError, match=r"overwrites what may be the memory of %\w+ and of %\w+.*\n  at: .*py:\d+"):
        Functionalize().run(trace(Guess(), [images()]))
