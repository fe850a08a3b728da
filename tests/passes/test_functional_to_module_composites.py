"""What functional-to-module makes of calls that are several ops, of parts of tensors, and of overwritten parts."""

import copy
import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, fx, nn

from qatc import ir
from qatc.errors import TraceError
from qatc.modules import ops
from qatc.passes import FunctionalToModule
from qatc.prepared import PreparedModel
from qatc.trace import record_types, trace
from tests.attention_models import CrossAttention, Projected, SelfAttention
from tests.check_pass import check_pass, check_same_function
from tests.models import conv, images, randomise

TOKENS = images(4, 6, 8)


def test_attention_becomes_its_products() -> None:
    check_pass(
        FunctionalToModule(),
        Projected(is_causal=True),
        snapshot("""\
-%chunk = chunk(%qkv, 3, -1)
-%getitem = getitem(%chunk, 0) : f32[N,6,8]
-%getitem_1 = getitem(%chunk, 1) : f32[N,6,8]
-%getitem_2 = getitem(%chunk, 2) : f32[N,6,8]
-%unflatten = unflatten(%getitem, -1, (2, 4)) : f32[N,6,2,4]
-%transpose = transpose(%unflatten, 1, 2) : f32[N,2,6,4]
-%unflatten_1 = unflatten(%getitem_1, -1, (2, 4)) : f32[N,6,2,4]
-%transpose_1 = transpose(%unflatten_1, 1, 2) : f32[N,2,6,4]
-%unflatten_2 = unflatten(%getitem_2, -1, (2, 4)) : f32[N,6,2,4]
-%transpose_2 = transpose(%unflatten_2, 1, 2) : f32[N,2,6,4]
-%scaled_dot_product_attention = scaled_dot_product_attention(%transpose, %transpose_1, %transpose_2, dropout_p=0.0, is_causal=True) : f32[N,2,6,4]
-%transpose_3 = transpose(%scaled_dot_product_attention, 1, 2) : f32[N,6,2,4]
-%flatten = flatten(%transpose_3, 2) : f32[N,6,8]
+%getitem = Chunk(%qkv) : f32[N,6,8]  chunks=3 dim=-1  # chunk
+%getitem_1 = Chunk(%qkv) : f32[N,6,8]  chunks=3 dim=-1 index=1  # chunk_1
+%getitem_2 = Chunk(%qkv) : f32[N,6,8]  chunks=3 dim=-1 index=2  # chunk_2
+%unflatten = Unflatten(%getitem) : f32[N,6,2,4]  dim=-1 unflattened_size=(2, 4)  # unflatten
+%transpose = Transpose(%unflatten) : f32[N,2,6,4]  dim0=1 dim1=2  # transpose
+%unflatten_1 = Unflatten(%getitem_1) : f32[N,6,2,4]  dim=-1 unflattened_size=(2, 4)  # unflatten_1
+%transpose_1 = Transpose(%unflatten_1) : f32[N,2,6,4]  dim0=1 dim1=2  # transpose_1
+%unflatten_2 = Unflatten(%getitem_2) : f32[N,6,2,4]  dim=-1 unflattened_size=(2, 4)  # unflatten_2
+%transpose_2 = Transpose(%unflatten_2) : f32[N,2,6,4]  dim0=1 dim1=2  # transpose_2
+%transpose_4 = Transpose(%transpose_1) : f32[N,2,4,6]  dim0=-2 dim1=-1  # transpose_3
+%matmul = MatMul(%transpose, %transpose_4) : f32[N,2,6,6]  # matmul
+%mul = Mul(%matmul, 0.5) : f32[N,2,6,6]  # mul
+%softmax = MaskedSoftmax(%mul) : f32[N,2,6,6]  causal=True  # softmax
+%matmul_1 = MatMul(%softmax, %transpose_2) : f32[N,2,6,4]  # matmul_1
+%transpose_3 = Transpose(%matmul_1) : f32[N,6,2,4]  dim0=1 dim1=2  # transpose_4
+%flatten = Flatten(%transpose_3) : f32[N,6,8]  start_dim=2  # flatten
"""),  # noqa: E501  (the dump has long lines)
        TOKENS,
    )


def test_multihead_attention_becomes_its_products() -> None:
    check_pass(
        FunctionalToModule(),
        SelfAttention(dropout=0.1),
        snapshot("""\
-%attn = MultiheadAttention(%fc, %fc, %fc)  embed_dim=8 num_heads=2 dropout=0.1 kdim=8 vdim=8 batch_first=True  # attn
-%getitem = getitem(%attn, 0) : f32[N,6,8]
-%add = add(%getitem, %fc) : f32[N,6,8]
+%attn_in_proj_bias = parameter(attn.in_proj_bias) : f32[24]  # attn.in_proj_bias
+%attn_in_proj_weight = parameter(attn.in_proj_weight) : f32[24,8]  # attn.in_proj_weight
+%linear = linear(%fc, %attn_in_proj_weight, %attn_in_proj_bias) : f32[N,6,24]  # attn
+%getitem_2 = Chunk(%linear) : f32[N,6,8]  chunks=3 dim=-1  # attn.chunk
+%getitem_3 = Chunk(%linear) : f32[N,6,8]  chunks=3 dim=-1 index=1  # attn.chunk_1
+%getitem_4 = Chunk(%linear) : f32[N,6,8]  chunks=3 dim=-1 index=2  # attn.chunk_2
+%unflatten = Unflatten(%getitem_2) : f32[N,6,2,4]  dim=-1 unflattened_size=(2, -1)  # attn.unflatten
+%transpose = Transpose(%unflatten) : f32[N,2,6,4]  dim0=-3 dim1=-2  # attn.transpose
+%unflatten_1 = Unflatten(%getitem_3) : f32[N,6,2,4]  dim=-1 unflattened_size=(2, -1)  # attn.unflatten_1
+%transpose_1 = Transpose(%unflatten_1) : f32[N,2,6,4]  dim0=-3 dim1=-2  # attn.transpose_1
+%unflatten_2 = Unflatten(%getitem_4) : f32[N,6,2,4]  dim=-1 unflattened_size=(2, -1)  # attn.unflatten_2
+%transpose_2 = Transpose(%unflatten_2) : f32[N,2,6,4]  dim0=-3 dim1=-2  # attn.transpose_2
+%transpose_3 = Transpose(%transpose_1) : f32[N,2,4,6]  dim0=-2 dim1=-1  # attn.transpose_3
+%matmul = MatMul(%transpose, %transpose_3) : f32[N,2,6,6]  # attn.matmul
+%mul = Mul(%matmul, 0.5) : f32[N,2,6,6]  # attn.mul
+%softmax = Softmax(%mul) : f32[N,2,6,6]  dim=-1  # attn.softmax
+%dropout = Dropout(%softmax) : f32[N,2,6,6]  p=0.1  # attn.dropout_1
+%matmul_1 = MatMul(%dropout, %transpose_2) : f32[N,2,6,4]  # attn.matmul_1
+%transpose_4 = Transpose(%matmul_1) : f32[N,6,2,4]  dim0=-3 dim1=-2  # attn.transpose_4
+%flatten = Flatten(%transpose_4) : f32[N,6,8]  start_dim=-2  # attn.flatten
+%attn_out_proj = NonDynamicallyQuantizableLinear(%flatten) : f32[N,6,8]  # attn.out_proj
+%add = Add(%attn_out_proj, %fc) : f32[N,6,8]  # add
"""),
        TOKENS,
    )


def test_attention_of_several_tensors_takes_its_weight_in_parts() -> None:
    check_pass(
        FunctionalToModule(),
        CrossAttention(),
        snapshot("""\
-%flip = flip(%x, 0) : f32[N,6,8]
+%flip = Flip(%x) : f32[N,6,8]  dims=0  # flip
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
+%unflatten = Unflatten(%linear) : f32[N,6,4,2]  dim=-1 unflattened_size=(4, -1)  # attn.unflatten
+%permute = Permute(%unflatten) : f32[6,4,N,2]  dims=(1, 2, 0, 3)  # attn.permute
+%unflatten_1 = Unflatten(%linear_1) : f32[N,6,4,2]  dim=-1 unflattened_size=(4, -1)  # attn.unflatten_1
+%permute_1 = Permute(%unflatten_1) : f32[6,4,N,2]  dims=(1, 2, 0, 3)  # attn.permute_1
+%unflatten_2 = Unflatten(%linear_2) : f32[N,6,4,2]  dim=-1 unflattened_size=(4, -1)  # attn.unflatten_2
+%permute_2 = Permute(%unflatten_2) : f32[6,4,N,2]  dims=(1, 2, 0, 3)  # attn.permute_2
+%transpose = Transpose(%permute_1) : f32[6,4,2,N]  dim0=-2 dim1=-1  # attn.transpose
+%matmul = MatMul(%permute, %transpose) : f32[6,4,N,N]  # attn.matmul
+%mul = Mul(%matmul, 0.7071067811865475) : f32[6,4,N,N]  # attn.mul
+%softmax = Softmax(%mul) : f32[6,4,N,N]  dim=-1  # attn.softmax
+%matmul_1 = MatMul(%softmax, %permute_2) : f32[6,4,N,2]  # attn.matmul_1
+%permute_3 = Permute(%matmul_1) : f32[N,6,4,2]  dims=(2, 0, 1, 3)  # attn.permute_3
+%flatten = Flatten(%permute_3) : f32[N,6,8]  start_dim=-2  # attn.flatten
+%attn_out_proj = NonDynamicallyQuantizableLinear(%flatten) : f32[N,6,8]  # attn.out_proj
+return %attn_out_proj
"""),
        TOKENS,
    )


class Parts(nn.Module):
    """Parts of a tensor in several writings, and parts that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        a, _ = y.chunk(2, dim=1)
        b, _, c = torch.split(y, [2, 1, 1], 1)
        return torch.cat([a * b, c, y[:, :1], y.unbind(1)[3][:, None]], 1)


def test_every_part_that_is_read_is_a_module() -> None:
    check_pass(
        FunctionalToModule(),
        Parts(),
        snapshot("""\
-%chunk = chunk(%conv, 2, dim=1)
-%getitem = getitem(%chunk, 0) : f32[N,2,8,8]
-%split = split(%conv, [2, 1, 1], dim=1)
-%getitem_2 = getitem(%split, 0) : f32[N,2,8,8]
-%getitem_4 = getitem(%split, 2) : f32[N,1,8,8]
-%mul = mul(%getitem, %getitem_2) : f32[N,2,8,8]
-%getitem_5 = getitem(%conv, (slice(None, None, None), slice(None, 1, None))) : f32[N,1,8,8]
-%unbind = unbind(%conv, 1)
-%getitem_9 = getitem(%unbind, 3) : f32[N,8,8]
-%getitem_10 = getitem(%getitem_9, (slice(None, None, None), None)) : f32[N,1,8,8]
-%cat = cat([%mul, %getitem_4, %getitem_5, %getitem_10], 1) : f32[N,5,8,8]
+%getitem = Chunk(%conv) : f32[N,2,8,8]  chunks=2 dim=1  # chunk
+%getitem_2 = Split(%conv) : f32[N,2,8,8]  split_size_or_sections=(2, 1, 1) dim=1  # split
+%getitem_4 = Split(%conv) : f32[N,1,8,8]  split_size_or_sections=(2, 1, 1) dim=1 index=2  # split_1
+%mul = Mul(%getitem, %getitem_2) : f32[N,2,8,8]  # mul
+%getitem_5 = Slice(%conv) : f32[N,1,8,8]  index=(slice(None, None, None), slice(None, 1, None))  # slice
+%getitem_9 = Select(%conv) : f32[N,8,8]  dim=1 index=3  # unbind
+%getitem_10 = Slice(%getitem_9) : f32[N,1,8,8]  index=(slice(None, None, None), None)  # slice_1
+%cat = Concat([%mul, %getitem_4, %getitem_5, %getitem_10]) : f32[N,5,8,8]  dim=1  # concat
"""),
    )


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
        FunctionalToModule(),
        Assigns(),
        snapshot("""\
-%getitem = getitem(%a, (slice(None, None, None), slice(None, -1, None))) : f32[N,3,8,8]
-%relu = relu(%getitem) : f32[N,3,8,8]
-%setitem = setitem(%a, (slice(None, None, None), slice(1, None, None)), %relu)
-%getitem_1 = getitem(%a, (slice(None, None, None), 0)) : f32[N,8,8]
-%imul = imul(%getitem_1, 2.0) : f32[N,8,8]
-%b = Conv2d(%a) : f32[N,4,8,8]  k3 p1  # b
+%getitem = Slice(%a) : f32[N,3,8,8]  index=(slice(None, None, None), slice(None, -1, None))  # slice
+%relu = ReLU(%getitem) : f32[N,3,8,8]  # relu
+%setitem = Assign(%a, %relu) : f32[N,4,8,8]  index=(slice(None, None, None), slice(1, None, None))  # assign
+%getitem_1 = Slice(%setitem) : f32[N,8,8]  index=(slice(None, None, None), 0)  # slice_1
+%imul = Mul(%getitem_1, 2.0) : f32[N,8,8]  # mul
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
    FunctionalToModule().run(gm)
    assert [gm(torch.ones(1)).item() for _ in range(3)] == [2.0, 6.0, 14.0]


def test_what_is_computed_from_parameters_stays() -> None:
    """A weight that the model normalizes is no activation: its steps get no grids."""
    root = nn.Module()
    root.weight = nn.Parameter(images(5, 8))
    graph = fx.Graph()
    x, weight = graph.placeholder("x"), graph.get_attr("weight")
    centred = graph.call_function(torch.sub, (weight, graph.call_method("mean", (weight, 1, True))))
    graph.output(graph.call_function(torch.relu, (graph.call_function(F.linear, (x, centred)),)))
    gm = PreparedModel(root, graph)
    FunctionalToModule().run(gm)
    assert [n.op for n in gm.graph.nodes] == snapshot(
        ["placeholder", "get_attr", "call_method", "call_function", "call_function", "call_module", "output"]
    )
    assert not ir.why_float(gm.graph.find_nodes(op="call_function", target=torch.sub)[0])


@pytest.mark.parametrize("form", [
    lambda y: (y.contiguous().add_(1), y),
    lambda y: (y.chunk(2, 1)[0].add_(1), y),
    lambda y: (y.mean(1, keepdim=True).expand_as(y), y.expand(4, 4, 8, 8).add_(1), y),
], ids=["perhaps a copy", "a part of several", "expanded"])  # fmt: skip
@pytest.mark.filterwarnings("ignore:the batch is fixed:qatc.QatcWarning")  # to what it is expanded to
def test_what_may_be_a_view_is_not_guessed(form: Any) -> None:
    class Guess(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            return form(self.conv(x))

    with pytest.raises(TraceError, match=r"overwrites what may be the memory of %\w+ and of %\w+.*\n  at: .*py:\d+"):
        FunctionalToModule().run(trace(Guess(), [images()]))


class DropPath(nn.Module):
    """Stochastic depth as timm has it."""

    def __init__(self, drop_prob: float = 0.0, scale_by_keep: bool = True) -> None:
        super().__init__()
        self.drop_prob, self.scale_by_keep = drop_prob, scale_by_keep

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return x
        keep_prob = 1 - self.drop_prob
        random = x.new_empty((x.shape[0], *[1] * (x.ndim - 1))).bernoulli_(keep_prob)
        if keep_prob > 0.0 and self.scale_by_keep:
            random.div_(keep_prob)
        return x * random


class StochasticDepth(nn.Module):
    """Stochastic depth as torchvision has it."""

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return x
        size = [x.shape[0] if self.mode == "row" else 1] + [1] * (x.ndim - 1)
        noise = torch.empty(size, dtype=x.dtype).bernoulli_(1.0 - self.p)
        return x * (noise.div_(1.0 - self.p) if self.p < 1.0 else noise)


class Branch(nn.Module):
    """A residual branch that is dropped at random."""

    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        self.conv, self.drop = conv(3, 3), drop

    def forward(self, x: Tensor) -> Any:
        return x + self.drop(self.conv(x))


class Leaves(fx.Tracer):
    """Keeps a user's module whose forward reads its mode as one call."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in (DropPath, StochasticDepth) or super().is_leaf_module(m, module_qualified_name)


@pytest.mark.parametrize("drop", [
    DropPath(0.4), DropPath(0.4, scale_by_keep=False), DropPath(), StochasticDepth(0.5, "row"),
    StochasticDepth(0.5, "batch"), StochasticDepth(1.0, "row"),
], ids=repr)  # fmt: skip
def test_stochastic_depth_follows_the_mode(drop: nn.Module) -> None:
    model = randomise(Branch(drop))
    root = copy.deepcopy(model)
    gm = PreparedModel(root, Leaves().trace(root), "Branch")
    record_types(gm, [images()])
    assert FunctionalToModule().run(gm)
    assert not FunctionalToModule().run(gm)
    assert isinstance(gm.get_submodule("drop"), ops.StochasticDepth)
    check_same_function(model, gm, [images()])
    assert [ir.module_of(n).__class__.__name__ for n in gm.graph.nodes if n.op == "call_module"] == snapshot(
        ["Conv2d", "StochasticDepth", "Add"]
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
        FunctionalToModule(),
        Einsum(),
        snapshot("""\
-%relu = relu(%conv, inplace=False) : f32[N,4,8,8]
-%einsum = einsum('nchw,ndhw->ncd', %conv, %relu) : f32[N,4,4]
-return %einsum
+%relu = ReLU(%conv) : f32[N,4,8,8]  # relu
+%size = size(%relu, 0)
+%reshape = Reshape(%conv, shape=(%size, 4, 64)) : f32[N,4,64]  # reshape
+%permute = Permute(%relu) : f32[N,8,8,4]  dims=(0, 2, 3, 1)  # permute
+%size_1 = size(%relu, 0)
+%reshape_1 = Reshape(%permute, shape=(%size_1, 64, 4)) : f32[N,64,4]  # reshape_1
+%matmul = MatMul(%reshape, %reshape_1) : f32[N,4,4]  # matmul
+return %matmul
"""),
    )
