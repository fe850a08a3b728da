from typing import Any

import pytest
import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, nn

from qatc import ir
from qatc.config import QConfig, config_of
from qatc.passes import InsertQuantizers
from qatc.prepared import PreparedModel
from qatc.targets import target_of
from tests.check_pass import check_pass
from tests.models import (
    Classifier,
    Concat,
    Numbers,
    PreActivation,
    ResidualIdentity,
    ResidualTwoConvs,
    Sizes,
    conv,
)
from tests.prepared import BEFORE_QUANTIZERS, placed, reasons, specs


def insert(
    model: nn.Module,
    expect: str,
    target: str = "onnxruntime",
    config: str | QConfig = "w8a8",
    inputs: Tensor | None = None,
) -> PreparedModel:
    """Check the pass for a target and a configuration."""
    return check_pass(
        InsertQuantizers(target_of(target), config_of(config)), model, expect, inputs, before=BEFORE_QUANTIZERS
    )


def test_onnxruntime_wants_a_grid_on_both_inputs_of_a_residual_add_and_behind_its_relu() -> None:
    insert(
        ResidualIdentity(),
        snapshot("""\
-%stem_0 = FusedConv2d(%x, bn=%stem.1) : f32[N,4,8,8]  k3 p1 act=ReLU  # stem.0
-%conv1 = FusedConv2d(%stem_0) : f32[N,4,8,8]  k3 p1 act=ReLU  # conv1
-%conv2 = Conv2d(%conv1) : f32[N,4,8,8]  k3 p1  # conv2
-%add = Add(%conv2, %stem_0) : f32[N,4,8,8]  # add
+%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
+%stem_0 = FusedConv2d(%x_q, bn=%stem.1, grid=%x_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # stem.0
+%stem_0_q = Tracked(%stem_0) : f32[N,4,8,8]  u8  # stem.0_q
+%conv1 = FusedConv2d(%stem_0_q, grid=%stem.0_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # conv1
+%conv1_q = Tracked(%conv1) : f32[N,4,8,8]  u8  # conv1_q
+%conv2 = FusedConv2d(%conv1_q, grid=%conv1_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv2
+%conv2_q = Tracked(%conv2) : f32[N,4,8,8]  u8/asym  # conv2_q
+%add = Add(%conv2_q, %stem_0_q) : f32[N,4,8,8]  # add
-%head = Conv2d(%relu_1) : f32[N,4,8,8]  k3 p1  # head
-return %head
+%relu__call1_q = Tracked(%relu_1) : f32[N,4,8,8]  u8  # relu__call1_q
+%head = FusedConv2d(%relu__call1_q, grid=%relu__call1_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # head
+%head_q = Tracked(%head) : f32[N,4,8,8]  u8/asym  # head_q
+return %head_q
"""),
    )


def test_tensorrt_wants_a_grid_on_the_skip_alone_and_reads_the_convolution_raw() -> None:
    insert(
        ResidualIdentity(),
        snapshot("""\
-%stem_0 = FusedConv2d(%x, bn=%stem.1) : f32[N,4,8,8]  k3 p1 act=ReLU  # stem.0
-%conv1 = FusedConv2d(%stem_0) : f32[N,4,8,8]  k3 p1 act=ReLU  # conv1
-%conv2 = Conv2d(%conv1) : f32[N,4,8,8]  k3 p1  # conv2
-%add = Add(%conv2, %stem_0) : f32[N,4,8,8]  # add
+%x_q = Tracked(%x) : f32[N,3,8,8]  s8  # x_q
+%stem_0 = FusedConv2d(%x_q, bn=%stem.1, grid=%x_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # stem.0
+%stem_0_q = Tracked(%stem_0) : f32[N,4,8,8]  s8  # stem.0_q
+%conv1 = FusedConv2d(%stem_0_q, grid=%stem.0_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # conv1
+%conv1_q = Tracked(%conv1) : f32[N,4,8,8]  s8  # conv1_q
+%conv2 = FusedConv2d(%conv1_q, grid=%conv1_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv2
+%add = Add(%conv2, %stem_0_q) : f32[N,4,8,8]  # add
-%head = Conv2d(%relu_1) : f32[N,4,8,8]  k3 p1  # head
+%relu__call1_q = Tracked(%relu_1) : f32[N,4,8,8]  s8  # relu__call1_q
+%head = FusedConv2d(%relu__call1_q, grid=%relu__call1_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # head
"""),
        "tensorrt",
    )


@pytest.mark.parametrize("first", ["skip", "main"])
def test_of_two_convolutions_before_an_add_tensorrt_reads_the_longer_path_raw(first: str) -> None:
    gm = placed(ResidualTwoConvs(first), "tensorrt")
    add = next(node for node, module in ir.module_calls(gm) if type(module).__name__ == "Add")
    raw, quantized = sorted(ir.tensor_inputs(add), key=lambda n: n.name)
    assert (raw.name, quantized.name) == ("conv2", "skip_q")


def test_what_is_dropped_in_training_does_not_hide_the_convolution_in_front_of_an_add() -> None:
    """The skip is a convolution's raw result, too: read raw instead, it would be the one that the sum is fused to."""

    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.main, self.head = conv(3, 4), conv(4, 4), conv(4, 4)
            self.drop = nn.Dropout(0.3)

        def forward(self, x: Tensor) -> Any:
            x = self.stem(x)
            return self.head(self.drop(self.main(x)) + x)

    gm = placed(Dropped(), "tensorrt")
    add = next(node for node, module in ir.module_calls(gm) if type(module).__name__ == "Add")
    assert [node.name for node in ir.tensor_inputs(add)] == ["drop", "stem_q"]


def test_an_add_with_no_convolution_in_front_stays_float_on_tensorrt() -> None:
    class Pools(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)

    gm = insert(
        nn.Sequential(conv(3, 4), Pools(), conv(4, 4)),
        snapshot("""\
-%_0 = Conv2d(%input_1) : f32[N,4,8,8]  k3 p1  # 0
+%input_q = Tracked(%input_1) : f32[N,3,8,8]  s8  # input_q
+%_0 = FusedConv2d(%input_q, grid=%input_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # 0
+%_0_q = Tracked(%_0) : f32[N,4,8,8]  s8  # 0_q
-%avg_pool2d = AvgPool2d(%_0) : f32[N,4,4,4]  k2 s2  # 1.avg_pool2d
-%add = Add(%max_pool2d, %avg_pool2d) : f32[N,4,4,4]  # 1.add
-%_2 = Conv2d(%add) : f32[N,4,4,4]  k3 p1  # 2
+%avg_pool2d = AvgPool2d(%_0_q) : f32[N,4,4,4]  k2 s2  # 1.avg_pool2d
+%_1_avg_pool2d_q = Tracked(%avg_pool2d) : f32[N,4,4,4]  s8  # 1.avg_pool2d_q
+%add = Add(%max_pool2d, %_1_avg_pool2d_q) : f32[N,4,4,4]  # 1.add
+%_1_add_q = Tracked(%add) : f32[N,4,4,4]  s8  # 1.add_q
+%_2 = FusedConv2d(%_1_add_q, grid=%1.add_q) : f32[N,4,4,4]  k3 p1  w=s8/ch0  # 2
"""),
        "tensorrt",
    )
    assert reasons(gm) == snapshot(
        {
            "1.max_pool2d": "none of its inputs is on a grid",
            "1.add": "no quantized convolution in front takes the sum in",
        }
    )


def test_onnxruntime_requantizes_each_input_of_a_concatenation() -> None:
    insert(
        Concat(),
        snapshot("""\
-%a = FusedConv2d(%x) : f32[N,4,8,8]  k3 p1 act=ReLU  # a
-%b = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # b
-%c = Conv2d(%a) : f32[N,4,8,8]  k3 p1  # c
-%cat = Concat([%a, %b, %c]) : f32[N,12,8,8]  dim=1  # concat
-%head = Conv2d(%cat) : f32[N,4,8,8]  k3 p1  # head
-return %head
+%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
+%a = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # a
+%a_q = Tracked(%a) : f32[N,4,8,8]  u8  # a_q
+%b = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # b
+%b_q = Tracked(%b) : f32[N,4,8,8]  u8/asym  # b_q
+%c = FusedConv2d(%a_q, grid=%a_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # c
+%c_q = Tracked(%c) : f32[N,4,8,8]  u8/asym  # c_q
+%cat = Concat([%a_q, %b_q, %c_q]) : f32[N,12,8,8]  dim=1  # concat
+%concat_q = Tracked(%cat) : f32[N,12,8,8]  u8/asym  # concat_q
+%head = FusedConv2d(%concat_q, grid=%concat_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # head
+%head_q = Tracked(%head) : f32[N,4,8,8]  u8/asym  # head_q
+return %head_q
"""),
    )


def test_tensorrt_wants_one_grid_behind_a_concatenation() -> None:
    insert(
        Concat(),
        snapshot("""\
-%a = FusedConv2d(%x) : f32[N,4,8,8]  k3 p1 act=ReLU  # a
-%b = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # b
-%c = Conv2d(%a) : f32[N,4,8,8]  k3 p1  # c
+%x_q = Tracked(%x) : f32[N,3,8,8]  s8  # x_q
+%a = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # a
+%a_q = Tracked(%a) : f32[N,4,8,8]  s8  # a_q
+%b = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # b
+%c = FusedConv2d(%a_q, grid=%a_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # c
-%head = Conv2d(%cat) : f32[N,4,8,8]  k3 p1  # head
+%concat_q = Tracked(%cat) : f32[N,12,8,8]  s8  # concat_q
+%head = FusedConv2d(%concat_q, grid=%concat_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # head
"""),
        "tensorrt",
    )


def test_the_last_linear_gives_float_on_onnxruntime_and_a_grid_passes_pools_and_flatten() -> None:
    gm = insert(
        Classifier(),
        snapshot("""\
-%conv = FusedConv2d(%x) : f32[N,4,8,8]  k3 p1 act=ReLU6  # conv
-%pool = MaxPool2d(%conv) : f32[N,4,4,4]  k2 s2  # pool
-%conv2 = FusedConv2d(%pool) : f32[N,4,4,4]  k3 p1 act=ReLU  # conv2
-%flatten = Flatten(%conv2) : f32[N,64]  # flatten
-%fc = Linear(%flatten) : f32[N,5]  # fc
+%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
+%conv = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1 act=ReLU6  w=s8/ch0  # conv
+%conv_q = Tracked(%conv) : f32[N,4,8,8]  u8  # conv_q
+%pool = MaxPool2d(%conv_q) : f32[N,4,4,4]  k2 s2  # pool
+%conv2 = FusedConv2d(%pool, grid=%conv_q) : f32[N,4,4,4]  k3 p1 act=ReLU  w=s8/ch0  # conv2
+%conv2_q = Tracked(%conv2) : f32[N,4,4,4]  u8  # conv2_q
+%flatten = Flatten(%conv2_q) : f32[N,64]  # flatten
+%fc = FusedLinear(%flatten, grid=%conv2_q) : f32[N,5]  w=s8/ch0  # fc
"""),
    )
    fc = next(node for node in gm.graph.nodes if node.target == "fc")
    source = ir.grid_source(fc.args[0])
    assert source is not None
    assert source.target == "conv2_q"
    assert fc.kwargs["grid"].target == "conv2_q"


def test_tensorrt_puts_no_grid_behind_the_last_op() -> None:
    insert(
        Classifier(),
        snapshot("""\
-%conv = FusedConv2d(%x) : f32[N,4,8,8]  k3 p1 act=ReLU6  # conv
+%x_q = Tracked(%x) : f32[N,3,8,8]  s8  # x_q
+%conv = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1 act=ReLU6  w=s8/ch0  # conv
-%conv2 = FusedConv2d(%pool) : f32[N,4,4,4]  k3 p1 act=ReLU  # conv2
+%pool_q = Tracked(%pool) : f32[N,4,4,4]  s8  # pool_q
+%conv2 = FusedConv2d(%pool_q, grid=%pool_q) : f32[N,4,4,4]  k3 p1 act=ReLU  w=s8/ch0  # conv2
-%fc = Linear(%flatten) : f32[N,5]  # fc
+%flatten_q = Tracked(%flatten) : f32[N,64]  s8  # flatten_q
+%fc = FusedLinear(%flatten_q, grid=%flatten_q) : f32[N,5]  w=s8/ch0  # fc
"""),
        "tensorrt",
    )
    insert(
        nn.Sequential(conv(3, 4), nn.AvgPool2d(2)),
        snapshot("""\
-%_0 = Conv2d(%input_1) : f32[N,4,8,8]  k3 p1  # 0
+%input_q = Tracked(%input_1) : f32[N,3,8,8]  s8  # input_q
+%_0 = FusedConv2d(%input_q, grid=%input_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # 0
"""),
        "tensorrt",
    )


def test_onnxruntime_puts_a_grid_behind_a_last_convolution() -> None:
    insert(
        nn.Sequential(conv(3, 4)),
        snapshot("""\
-%_0 = Conv2d(%input_1) : f32[N,4,8,8]  k3 p1  # 0
-return %_0
+%input_q = Tracked(%input_1) : f32[N,3,8,8]  u8/asym  # input_q
+%_0 = FusedConv2d(%input_q, grid=%input_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # 0
+%_0_q = Tracked(%_0) : f32[N,4,8,8]  u8/asym  # 0_q
+return %_0_q
"""),
    )


def test_the_grid_behind_a_clip_ends_inside_it_where_the_target_wants_that() -> None:
    assert specs(placed(Classifier()))["conv_q"].upper == 6.0
    assert specs(placed(Classifier(), "tensorrt"))["pool_q"].upper is None
    assert specs(placed(Classifier(nn.ReLU())))["conv_q"].upper is None


def test_a_bn_of_its_own_is_a_layer_on_onnxruntime_and_float_on_tensorrt() -> None:
    insert(
        PreActivation(),
        snapshot("""\
-%bn1 = FusedBatchNorm(%x) : f32[N,3,8,8]  act=ReLU  # bn1
-%conv = Conv2d(%bn1) : f32[N,4,8,8]  k3 p1  # conv
-%cat = Concat([%x, %conv]) : f32[N,7,8,8]  dim=1  # concat
-%bn2 = FusedBatchNorm(%cat) : f32[N,7,8,8]  # bn2
-return %bn2
+%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
+%bn1 = FusedBatchNorm(%x_q, grid=%x_q) : f32[N,3,8,8]  act=ReLU  w=s8/ch0  # bn1
+%bn1_q = Tracked(%bn1) : f32[N,3,8,8]  u8  # bn1_q
+%conv = FusedConv2d(%bn1_q, grid=%bn1_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv
+%conv_q = Tracked(%conv) : f32[N,4,8,8]  u8/asym  # conv_q
+%cat = Concat([%x_q, %conv_q]) : f32[N,7,8,8]  dim=1  # concat
+%concat_q = Tracked(%cat) : f32[N,7,8,8]  u8/asym  # concat_q
+%bn2 = FusedBatchNorm(%concat_q, grid=%concat_q) : f32[N,7,8,8]  w=s8/ch0  # bn2
+%bn2_q = Tracked(%bn2) : f32[N,7,8,8]  u8/asym  # bn2_q
+return %bn2_q
"""),
    )
    assert reasons(placed(PreActivation(), "tensorrt")) == snapshot(
        {
            "bn1": "a scale layer of its own runs in the float precision",
            "concat": "none of its inputs is on a grid",
            "bn2": "a scale layer of its own runs in the float precision",
        }
    )


def test_numbers_and_sizes_get_no_grid_and_what_computes_with_them_is_float() -> None:
    assert reasons(
        insert(
            Sizes(),
            snapshot("""\
-%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
+%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
+%conv = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv
+%conv_q = Tracked(%conv) : f32[N,4,8,8]  u8/asym  # conv_q
-%mul = Mul(%conv, %pow_1) : f32[N,4,8,8]  # mul
+%mul = Mul(%conv_q, %pow_1) : f32[N,4,8,8]  # mul
-%fc = Linear(%reshape) : f32[N,4]  # fc
+%reshape_q = Tracked(%reshape) : f32[N,256]  u8/asym  # reshape_q
+%fc = FusedLinear(%reshape_q, grid=%reshape_q) : f32[N,4]  w=s8/ch0  # fc
"""),
        )
    ) == snapshot(
        {"mul": "one of its operands is a number, which has no grid", "reshape": "none of its inputs is on a grid"}
    )
    assert reasons(
        insert(
            Numbers(),
            snapshot("""\
-%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
-%add = Add(%conv, 1.0) : f32[N,4,8,8]  # add
+%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
+%conv = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv
+%conv_q = Tracked(%conv) : f32[N,4,8,8]  u8/asym  # conv_q
+%add = Add(%conv_q, 1.0) : f32[N,4,8,8]  # add
"""),
        )
    ) == snapshot(
        {
            "add": "one of its operands is a number, which has no grid",
            "mul": "one of its operands is a number, which has no grid",
            "div": "Div has no integer form on onnxruntime",
            "sub": "Sub has no integer form on onnxruntime",
        }
    )


def test_a_tuple_of_tensors_gets_no_grid() -> None:
    class Parts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat(torch.split(x, 2, 1)[::-1], 1)

    insert(
        nn.Sequential(conv(3, 4), Parts(), conv(4, 4)),
        snapshot("""\
-%_0 = Conv2d(%input_1) : f32[N,4,8,8]  k3 p1  # 0
-%getitem = Split(%_0) : f32[N,2,8,8]  split_size_or_sections=2 dim=1  # 1.split
-%getitem_1 = Split(%_0) : f32[N,2,8,8]  split_size_or_sections=2 dim=1 index=1  # 1.split_1
+%input_q = Tracked(%input_1) : f32[N,3,8,8]  u8/asym  # input_q
+%_0 = FusedConv2d(%input_q, grid=%input_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # 0
+%_0_q = Tracked(%_0) : f32[N,4,8,8]  u8/asym  # 0_q
+%getitem = Split(%_0_q) : f32[N,2,8,8]  split_size_or_sections=2 dim=1  # 1.split
+%getitem_1 = Split(%_0_q) : f32[N,2,8,8]  split_size_or_sections=2 dim=1 index=1  # 1.split_1
-%_2 = Conv2d(%cat) : f32[N,4,8,8]  k3 p1  # 2
-return %_2
+%_1_concat_q = Tracked(%cat) : f32[N,4,8,8]  u8/asym  # 1.concat_q
+%_2 = FusedConv2d(%_1_concat_q, grid=%1.concat_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # 2
+%_2_q = Tracked(%_2) : f32[N,4,8,8]  u8/asym  # 2_q
+return %_2_q
"""),
    )


def test_indices_get_no_grid() -> None:
    class Embeds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.fc = nn.Embedding(16, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Any:
            return self.fc(self.embedding(x + x))

    gm = insert(
        Embeds(),
        snapshot("""\
-%fc = Linear(%embedding) : f32[N,4,4]  # fc
+%embedding_q = Tracked(%embedding) : f32[N,4,6]  u8/asym  # embedding_q
+%fc = FusedLinear(%embedding_q, grid=%embedding_q) : f32[N,4,4]  w=s8/ch0  # fc
"""),
        inputs=torch.arange(8).view(2, 4),
    )
    assert reasons(gm) == snapshot({"embedding": "Embedding has no integer form on onnxruntime"})


def test_an_activation_behind_a_float_op_is_float() -> None:
    model = nn.Sequential(conv(3, 4), nn.GELU(), nn.ReLU(), conv(4, 4))
    assert reasons(placed(model)) == snapshot(
        {
            "1": "Gelu has no integer form on onnxruntime",
            "2": "an activation with no integer op in front has no integer kernel",
        }
    )

    class FloatSum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x.sigmoid() + x.tanh())

    model = nn.Sequential(conv(3, 4), FloatSum(), conv(4, 4))
    assert reasons(placed(model, "tensorrt")) == snapshot(
        {
            "1.sigmoid": "Sigmoid has no integer form on tensorrt",
            "1.tanh": "Tanh has no integer form on tensorrt",
            "1.add": "no quantized convolution in front takes the sum in",
            "1.relu": "no quantized convolution in front takes the sum in",
        }
    )
