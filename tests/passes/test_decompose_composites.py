"""Attention and its like, taken apart."""

from typing import Any

import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, nn

from qatc.passes import DecomposeComposites, DedupModules
from tests.attention_models import CrossAttention, Projected, SelfAttention
from tests.check_pass import check_pass
from tests.models import conv, images

TOKENS = images(4, 6, 8)


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


def test_a_causal_mask_becomes_a_part_of_the_softmax() -> None:
    check_pass(
        DecomposeComposites(),
        Projected(is_causal=True),
        snapshot("""\
-%scaled_dot_product_attention = scaled_dot_product_attention(%transpose, %transpose_1, %transpose_2, dropout_p=0.0, is_causal=True) : f32[N,2,6,4]
-%transpose_3 = transpose(%scaled_dot_product_attention, 1, 2) : f32[N,6,2,4]
+%transpose_4 = transpose(%transpose_1, -2, -1) : f32[N,2,4,6]
+%matmul = matmul(%transpose, %transpose_4) : f32[N,2,6,6]
+%mul = mul(%matmul, 0.5) : f32[N,2,6,6]
+%softmax = MaskedSoftmax(%mul) : f32[N,2,6,6]  causal=True  # softmax
+%matmul_1 = matmul(%softmax, %transpose_2) : f32[N,2,6,4]
+%transpose_3 = transpose(%matmul_1, 1, 2) : f32[N,6,2,4]
"""),  # noqa: E501  (the dump has long lines)
        TOKENS,
    )


def test_multihead_attention_becomes_its_products() -> None:
    check_pass(
        DecomposeComposites(),
        SelfAttention(dropout=0.1),
        snapshot("""\
-%attn = MultiheadAttention(%fc, %fc, %fc)  embed_dim=8 num_heads=2 dropout=0.1 kdim=8 vdim=8 batch_first=True  # attn
-%getitem = getitem(%attn, 0) : f32[N,6,8]
-%add = add(%getitem, %fc) : f32[N,6,8]
+%attn_in_proj_bias = parameter(attn.in_proj_bias) : f32[24]  # attn.in_proj_bias
+%attn_in_proj_weight = parameter(attn.in_proj_weight) : f32[24,8]  # attn.in_proj_weight
+%linear = linear(%fc, %attn_in_proj_weight, %attn_in_proj_bias) : f32[N,6,24]  # attn
+%chunk = chunk(%linear, 3, -1)  # attn
+%getitem_2 = getitem(%chunk, 0) : f32[N,6,8]  # attn
+%getitem_3 = getitem(%chunk, 1) : f32[N,6,8]  # attn
+%getitem_4 = getitem(%chunk, 2) : f32[N,6,8]  # attn
+%unflatten = unflatten(%getitem_2, -1, (2, -1)) : f32[N,6,2,4]  # attn
+%transpose = transpose(%unflatten, -3, -2) : f32[N,2,6,4]  # attn
+%unflatten_1 = unflatten(%getitem_3, -1, (2, -1)) : f32[N,6,2,4]  # attn
+%transpose_1 = transpose(%unflatten_1, -3, -2) : f32[N,2,6,4]  # attn
+%unflatten_2 = unflatten(%getitem_4, -1, (2, -1)) : f32[N,6,2,4]  # attn
+%transpose_2 = transpose(%unflatten_2, -3, -2) : f32[N,2,6,4]  # attn
+%transpose_3 = transpose(%transpose_1, -2, -1) : f32[N,2,4,6]  # attn
+%matmul = matmul(%transpose, %transpose_3) : f32[N,2,6,6]  # attn
+%mul = mul(%matmul, 0.5) : f32[N,2,6,6]  # attn
+%softmax = softmax(%mul, dim=-1, _stacklevel=3, dtype=None) : f32[N,2,6,6]  # attn
+%attn_dropout_1 = Dropout(%softmax) : f32[N,2,6,6]  p=0.1  # attn.dropout_1
+%matmul_1 = matmul(%attn_dropout_1, %transpose_2) : f32[N,2,6,4]  # attn
+%transpose_4 = transpose(%matmul_1, -3, -2) : f32[N,6,2,4]  # attn
+%flatten = flatten(%transpose_4, -2) : f32[N,6,8]  # attn
+%attn_out_proj = NonDynamicallyQuantizableLinear(%flatten) : f32[N,6,8]  # attn.out_proj
+%add = add(%attn_out_proj, %fc) : f32[N,6,8]
"""),
        TOKENS,
    )


def test_attention_of_several_tensors_takes_its_weight_in_parts() -> None:
    check_pass(
        DecomposeComposites(),
        CrossAttention(),
        snapshot("""\
-%attn = MultiheadAttention(%q, %k, %v, need_weights=False)  embed_dim=8 num_heads=4 kdim=8 vdim=8  # attn
-%getitem = getitem(%attn, 0) : f32[N,6,8]
-return %getitem
+%attn_in_proj_bias = parameter(attn.in_proj_bias) : f32[24]  # attn.in_proj_bias
+%attn_in_proj_weight = parameter(attn.in_proj_weight) : f32[24,8]  # attn.in_proj_weight
+%getitem_1 = getitem(%attn_in_proj_weight, slice(0, 8, None)) : f32[8,8]  # attn
+%getitem_2 = getitem(%attn_in_proj_weight, slice(8, 16, None)) : f32[8,8]  # attn
+%getitem_3 = getitem(%attn_in_proj_weight, slice(16, 24, None)) : f32[8,8]  # attn
+%getitem_4 = getitem(%attn_in_proj_bias, slice(0, 8, None)) : f32[8]  # attn
+%getitem_5 = getitem(%attn_in_proj_bias, slice(8, 16, None)) : f32[8]  # attn
+%getitem_6 = getitem(%attn_in_proj_bias, slice(16, 24, None)) : f32[8]  # attn
+%linear = linear(%q, %getitem_1, %getitem_4) : f32[N,6,8]  # attn
+%linear_1 = linear(%k, %getitem_2, %getitem_5) : f32[N,6,8]  # attn
+%linear_2 = linear(%v, %getitem_3, %getitem_6) : f32[N,6,8]  # attn
+%unflatten = unflatten(%linear, -1, (4, -1)) : f32[N,6,4,2]  # attn
+%permute = permute(%unflatten, (1, 2, 0, 3)) : f32[6,4,N,2]  # attn
+%unflatten_1 = unflatten(%linear_1, -1, (4, -1)) : f32[N,6,4,2]  # attn
+%permute_1 = permute(%unflatten_1, (1, 2, 0, 3)) : f32[6,4,N,2]  # attn
+%unflatten_2 = unflatten(%linear_2, -1, (4, -1)) : f32[N,6,4,2]  # attn
+%permute_2 = permute(%unflatten_2, (1, 2, 0, 3)) : f32[6,4,N,2]  # attn
+%transpose = transpose(%permute_1, -2, -1) : f32[6,4,2,N]  # attn
+%matmul = matmul(%permute, %transpose) : f32[6,4,N,N]  # attn
+%mul = mul(%matmul, 0.7071067811865475) : f32[6,4,N,N]  # attn
+%softmax = softmax(%mul, dim=-1, _stacklevel=3, dtype=None) : f32[6,4,N,N]  # attn
+%matmul_1 = matmul(%softmax, %permute_2) : f32[6,4,N,2]  # attn
+%permute_3 = permute(%matmul_1, (2, 0, 1, 3)) : f32[N,6,4,2]  # attn
+%flatten = flatten(%permute_3, -2) : f32[N,6,8]  # attn
+%attn_out_proj = NonDynamicallyQuantizableLinear(%flatten) : f32[N,6,8]  # attn.out_proj
+return %attn_out_proj
"""),
        TOKENS,
    )


def test_products_of_two_tensors_are_found_in_einsum() -> None:
    class Einsum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            return torch.einsum("nchw,ndhw->ncd", y, F.relu(y))

    check_pass(
        DecomposeComposites(),
        Einsum(),
        snapshot("""\
-%einsum = einsum('nchw,ndhw->ncd', %conv, %relu) : f32[N,4,4]
-return %einsum
+%size = size(%relu, 0)
+%reshape = reshape(%conv, [%size, 4, 64]) : f32[N,4,64]
+%permute = permute(%relu, (0, 2, 3, 1)) : f32[N,8,8,4]
+%size_1 = size(%relu, 0)
+%reshape_1 = reshape(%permute, [%size_1, 64, 4]) : f32[N,64,4]
+%matmul = matmul(%reshape, %reshape_1) : f32[N,4,4]
+return %matmul
"""),
    )
