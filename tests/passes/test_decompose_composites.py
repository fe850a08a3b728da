"""Attention and its like, taken apart."""

import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, nn

from qatc.passes import DecomposeComposites, DedupModules
from tests.check_pass import check_pass
from tests.models import images


class Attention(nn.Module):
    """A head of attention over positions, with its products as torch's one function."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v)


class Overwritten(nn.Module):
    """An op with a factor that overwrites: it is taken apart into ops that do not, and what follows reads those."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        y.add_(x, alpha=2)
        result: Tensor = torch.relu(y) + y
        return result


def test_attention_becomes_two_products_and_a_softmax() -> None:
    check_pass(
        DecomposeComposites(),
        Attention(),
        snapshot("""\
-%scaled_dot_product_attention = scaled_dot_product_attention(%getitem, %getitem_1, %getitem_2) : f32[N,4,8]
-return %scaled_dot_product_attention
+%transpose = transpose(%getitem_1, -2, -1) : f32[N,8,4]
+%matmul = matmul(%getitem, %transpose) : f32[N,4,4]
+%mul = mul(%matmul, 0.3535533905932738) : f32[N,4,4]
+%softmax = softmax(%mul, dim=-1, _stacklevel=3, dtype=None) : f32[N,4,4]
+%matmul_1 = matmul(%softmax, %getitem_2) : f32[N,4,8]
+return %matmul_1
"""),
        images(2, 4, 8),
        before=[DedupModules()],
    )


def test_what_reads_an_overwritten_tensor_reads_what_it_was_taken_apart_into() -> None:
    check_pass(
        DecomposeComposites(),
        Overwritten(),
        snapshot("""\
-%add_ = add_(%fc, %x, alpha=2) : f32[N,4,8]
-%relu = relu(%add_) : f32[N,4,8]
-%add = add(%relu, %add_) : f32[N,4,8]
+%mul = mul(%x, 2) : f32[N,4,8]
+%add_1 = add(%fc, %mul) : f32[N,4,8]
+%relu = relu(%add_1) : f32[N,4,8]
+%add = add(%relu, %add_1) : f32[N,4,8]
"""),
        images(2, 4, 8),
        before=[DedupModules()],
    )


def test_a_model_without_composites_stays_as_it_is() -> None:
    check_pass(DecomposeComposites(), nn.Linear(8, 8), snapshot(""), images(2, 8), before=[DedupModules()])
