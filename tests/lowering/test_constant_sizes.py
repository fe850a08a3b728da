"""Sizes that do not follow the batch are numbers before the file is written, and what is made of them is constant."""

from typing import Any

import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

from qatc.lowering.constant_sizes import ConstantSizes
from qatc.lowering.fold_constants import FoldConstants
from qatc.printer import format_graph
from qatc.trace import record_types, trace
from tests.check_pass import close, evaluated
from tests.models import images


class Sizes(nn.Module):
    """Sizes in all writings, of which only those of the batch must be computed."""

    def forward(self, x: Tensor) -> Any:
        rows, width = x.shape[0], x.size(-1) // 2
        steps = torch.arange(x.shape[1], dtype=x.dtype, device=x.device)
        y = x.reshape(rows, x.shape[1], width, x.dim() - 1) * x.numel()
        return y[:, :, : x.shape[2] - 1] + steps.view(-1, 1, 1) + torch.zeros_like(x[0, :, :1, None])


def test_what_follows_the_batch_stays() -> None:
    gm = trace(Sizes().eval(), (images(2, 4, 6),))
    expected = evaluated(Sizes(), [images(3, 4, 6)])
    assert ConstantSizes().run(gm)
    assert format_graph(gm, locations=False) == snapshot("""\
%x = input() : f32[N,4,6]  # x
%arange = arange(4, dtype=float32, device=cpu) : f32[4]
%size_1 = size(%x, 0)
%reshape = reshape(%x, %size_1, 4, 3, 2) : f32[N,4,3,2]
%size_4 = size(%x, 0)
%mul = mul(%size_4, 6)
%mul_1 = mul(%mul, 4)
%mul_2 = mul(%reshape, %mul_1) : f32[N,4,3,2]
%getitem = getitem(%mul_2, (slice(None, None, None), slice(None, None, None), slice(None, 5, None))) : f32[N,4,3,2]
%view = view(%arange, -1, 1, 1) : f32[4,1,1]
%add_1 = add(%getitem, %view) : f32[N,4,3,2]
%zeros_like = full((4, 1, 1), 0, dtype=float32) : f32[4,1,1]
%add_2 = add(%add_1, %zeros_like) : f32[N,4,3,2]
return %add_2
""")
    assert not ConstantSizes().run(gm)
    assert FoldConstants().run(gm)
    assert torch.equal(evaluated(gm, [images(3, 4, 6)]), expected)
    assert "arange" not in format_graph(gm)


class TakenApart(nn.Module):
    def forward(self, x: Tensor) -> Any:
        shape = x.shape
        return x.view(shape[:1] + (shape[1] * shape[2], shape[3])) / shape[-1] + shape[0]  # noqa: RUF005  (as written)


def test_shapes_are_numbers_where_they_can_be() -> None:
    """As traced without example inputs, where a shape is one node."""
    gm = trace(TakenApart().eval())
    record_types(gm, [images()])
    assert ConstantSizes().run(gm)
    assert format_graph(gm, locations=False) == snapshot("""\
%x = input() : f32[N,3,8,8]  # x
%getattr_1 = getattr(%x, 'shape')
%getitem = getitem(%getattr_1, slice(None, 1, None))
%add = add(%getitem, (24, 8))
%view = view(%x, %add) : f32[N,24,8]
%truediv = truediv(%view, 8) : f32[N,24,8]
%getitem_5 = getitem(%getattr_1, 0)
%add_1 = add(%truediv, %getitem_5) : f32[N,24,8]
return %add_1
""")
    close(evaluated(gm, [images(5, 3, 8, 8)]), evaluated(TakenApart(), [images(5, 3, 8, 8)]), "sizes", 0.0)
