from inline_snapshot import snapshot
from torch import nn

import qatc
from qatc.passes import DecomposeComposites, DedupModules, Functionalize, FunctionalToModule, FuseConvBnAct
from tests.batch_norm_models import Rows
from tests.check_pass import check_pass
from tests.models import (
    BatchNormReadTwice,
    ConvBnAct,
    ConvReadTwice,
    SharedBatchNorm,
    SharedConv,
    SharedRelu,
    conv,
    images,
)

BEFORE = (DedupModules(), Functionalize(), FunctionalToModule())
bn2d = nn.BatchNorm2d


def test_conv_bn_relu_becomes_one_module_and_the_bn_its_argument() -> None:
    gm = check_pass(
        FuseConvBnAct(),
        ConvBnAct(bn=bn2d(4), act=nn.ReLU()),
        snapshot("""\
-%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
-%bn = BatchNorm2d(%conv) : f32[N,4,8,8]  # bn
-%act = ReLU(%bn) : f32[N,4,8,8]  # act
-return %act
+%conv = FusedConv2d(%x, bn=%bn) : f32[N,4,8,8]  k3 p1 act=ReLU  # conv
+return %conv
"""),
        before=BEFORE,
    )
    assert [type(m).__name__ for m in gm.children()] == ["FusedConv2d", "BatchNorm2d"]


def test_the_activation_or_the_bn_may_be_absent() -> None:
    check_pass(
        FuseConvBnAct(),
        ConvBnAct(bn=bn2d(4)),
        snapshot("""\
-%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
-%bn = BatchNorm2d(%conv) : f32[N,4,8,8]  # bn
-return %bn
+%conv = FusedConv2d(%x, bn=%bn) : f32[N,4,8,8]  k3 p1  # conv
+return %conv
"""),
        before=BEFORE,
    )
    check_pass(
        FuseConvBnAct(),
        ConvBnAct(act=nn.ReLU6()),
        snapshot("""\
-%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
-%act = ReLU6(%conv) : f32[N,4,8,8]  # act
-return %act
+%conv = FusedConv2d(%x) : f32[N,4,8,8]  k3 p1 act=ReLU6  # conv
+return %conv
"""),
        before=BEFORE,
    )
    check_pass(
        FuseConvBnAct(),
        ConvBnAct(act=nn.Hardtanh(-2.0, 2.0)),
        snapshot("""\
-%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
-%act = Hardtanh(%conv) : f32[N,4,8,8]  min_val=-2.0 max_val=2.0  # act
-return %act
+%conv = FusedConv2d(%x) : f32[N,4,8,8]  k3 p1 act=Hardtanh  # conv
+return %conv
"""),
        before=BEFORE,
    )


def test_a_lone_convolution_is_left() -> None:
    check_pass(FuseConvBnAct(), ConvBnAct(), snapshot(""), before=BEFORE)


def test_an_activation_that_does_more_than_clip_is_left() -> None:
    check_pass(
        FuseConvBnAct(),
        ConvBnAct(bn=bn2d(4), act=nn.Sigmoid()),
        snapshot("""\
-%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
-%bn = BatchNorm2d(%conv) : f32[N,4,8,8]  # bn
-%act = Sigmoid(%bn) : f32[N,4,8,8]  # act
+%conv = FusedConv2d(%x, bn=%bn) : f32[N,4,8,8]  k3 p1  # conv
+%act = Sigmoid(%conv) : f32[N,4,8,8]  # act
"""),
        before=BEFORE,
    )


def test_a_linear_and_convolutions_of_one_and_three_dimensions_are_fused() -> None:
    linear = ConvBnAct(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU())
    check_pass(
        FuseConvBnAct(),
        linear,
        snapshot("""\
-%conv = Linear(%x) : f32[N,4]  # conv
-%bn = BatchNorm1d(%conv) : f32[N,4]  # bn
-%act = ReLU(%bn) : f32[N,4]  # act
-return %act
+%conv = FusedLinear(%x, bn=%bn) : f32[N,4]  act=ReLU  # conv
+return %conv
"""),
        images(8, 6),
        before=BEFORE,
    )
    conv1d = ConvBnAct(nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4), nn.ReLU())
    check_pass(
        FuseConvBnAct(),
        conv1d,
        snapshot("""\
-%conv = Conv1d(%x) : f32[N,4,3]  k3  # conv
-%bn = BatchNorm1d(%conv) : f32[N,4,3]  # bn
-%act = ReLU(%bn) : f32[N,4,3]  # act
-return %act
+%conv = FusedConv1d(%x, bn=%bn) : f32[N,4,3]  k3 act=ReLU  # conv
+return %conv
"""),
        images(8, 6, 5),
        before=BEFORE,
    )
    conv3d = ConvBnAct(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.ReLU())
    check_pass(
        FuseConvBnAct(),
        conv3d,
        snapshot("""\
-%conv = Conv3d(%x) : f32[N,4,3,3,3]  k3  # conv
-%bn = BatchNorm3d(%conv) : f32[N,4,3,3,3]  # bn
-%act = ReLU(%bn) : f32[N,4,3,3,3]  # act
-return %act
+%conv = FusedConv3d(%x, bn=%bn) : f32[N,4,3,3,3]  k3 act=ReLU  # conv
+return %conv
"""),
        images(4, 2, 5, 5, 5),
        before=BEFORE,
    )


def test_groups_biases_strides_and_padding_modes_are_kept() -> None:
    grouped = conv(4, 8, 3, groups=4, stride=2, padding_mode="circular")
    check_pass(
        FuseConvBnAct(),
        ConvBnAct(grouped, bn2d(8), nn.ReLU()),
        snapshot("""\
-%conv = Conv2d(%x) : f32[N,8,4,4]  k3 s2 p1 g4 padding_mode='circular'  # conv
-%bn = BatchNorm2d(%conv) : f32[N,8,4,4]  # bn
-%act = ReLU(%bn) : f32[N,8,4,4]  # act
-return %act
+%conv = FusedConv2d(%x, bn=%bn) : f32[N,8,4,4]  k3 s2 p1 g4 padding_mode='circular' act=ReLU  # conv
+return %conv
"""),
        images(4, 4, 8, 8),
        before=BEFORE,
    )


def test_a_bn_without_factors_is_fused() -> None:
    check_pass(
        FuseConvBnAct(),
        ConvBnAct(bn=bn2d(4, eps=0.5, affine=False)),
        snapshot("""\
-%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
-%bn = BatchNorm2d(%conv) : f32[N,4,8,8]  eps=0.5 affine=False  # bn
-return %bn
+%conv = FusedConv2d(%x, bn=%bn) : f32[N,4,8,8]  k3 p1  # conv
+return %conv
"""),
        before=BEFORE,
    )


def test_a_bn_without_running_statistics_is_left() -> None:
    model = ConvBnAct(bn=bn2d(4, track_running_stats=False), act=nn.ReLU())
    check_pass(FuseConvBnAct(), model, snapshot(""), before=BEFORE)
    rows = {row.name: row.reason for row in qatc.prepare(model, images()).report.rows}
    assert rows["bn"] == "it has no running statistics (track_running_stats=False)"


def test_a_bn_of_other_channels_than_the_linear_has_is_left() -> None:
    """On [N, C, L] a BatchNorm1d is of dimension 1, a Linear's channels are dimension 2, here of the same size."""
    model = ConvBnAct(nn.Linear(4, 4), nn.BatchNorm1d(4))
    check_pass(FuseConvBnAct(), model, snapshot(""), images(8, 4, 4), before=BEFORE)


def test_an_activation_is_left_where_something_else_reads_the_bn() -> None:
    check_pass(
        FuseConvBnAct(),
        BatchNormReadTwice(),
        snapshot("""\
-%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
-%bn = BatchNorm2d(%conv) : f32[N,4,8,8]  # bn
-%relu = ReLU(%bn) : f32[N,4,8,8]  # relu
-%add = Add(%relu, %bn) : f32[N,4,8,8]  # add
+%conv = FusedConv2d(%x, bn=%bn) : f32[N,4,8,8]  k3 p1  # conv
+%relu = ReLU(%conv) : f32[N,4,8,8]  # relu
+%add = Add(%relu, %conv) : f32[N,4,8,8]  # add
"""),
        before=BEFORE,
    )


def test_nothing_is_fused_where_something_else_reads_the_convolution() -> None:
    check_pass(FuseConvBnAct(), ConvReadTwice(), snapshot(""), before=BEFORE)


def test_two_convolutions_may_share_a_bn() -> None:
    check_pass(
        FuseConvBnAct(),
        SharedBatchNorm(),
        snapshot("""\
-%a = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # a
-%bn = BatchNorm2d(%a) : f32[N,4,8,8]  # bn
-%b = Conv2d(%bn) : f32[N,4,8,8]  k3 p1  # b
-%bn_1 = BatchNorm2d(%b) : f32[N,4,8,8]  # bn
-return %bn_1
+%a = FusedConv2d(%x, bn=%bn) : f32[N,4,8,8]  k3 p1  # a
+%b = FusedConv2d(%a, bn=%bn) : f32[N,4,8,8]  k3 p1  # b
+return %b
"""),
        before=BEFORE,
    )


def test_each_call_of_a_shared_relu_or_convolution_is_fused_on_its_own() -> None:
    check_pass(
        FuseConvBnAct(),
        SharedRelu(),
        snapshot("""\
-%a = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # a
-%relu = ReLU(%a) : f32[N,4,8,8]  # relu
-%b = Conv2d(%relu) : f32[N,4,8,8]  k3 p1  # b
-%relu_1 = ReLU(%b) : f32[N,4,8,8]  # relu__call1
-return %relu_1
+%a = FusedConv2d(%x) : f32[N,4,8,8]  k3 p1 act=ReLU  # a
+%b = FusedConv2d(%a) : f32[N,4,8,8]  k3 p1 act=ReLU  # b
+return %b
"""),
        before=BEFORE,
    )
    check_pass(FuseConvBnAct(), SharedConv(), snapshot(""), before=BEFORE)


def test_a_linear_reads_the_rows_that_its_batch_norm_wants() -> None:
    check_pass(
        FuseConvBnAct(),
        Rows(),
        snapshot("""\
-%fc = Linear(%flatten) : f32[N,24,6]  # fc
-%flatten_1 = Flatten(%fc) : f32[N,6]  start_dim=0 end_dim=1  # flatten_1
-%bn = BatchNorm1d(%flatten_1) : f32[N,6]  # bn
-%reshape = Reshape(%bn) : f32[N,24,6]  shape=(-1, 24, 6)  # reshape
-%fc2 = Linear(%reshape) : f32[N,24,4]  # fc2
-%view = Reshape(%fc2) : f32[N,4]  shape=(-1, 4)  # reshape_1
-%bn2 = BatchNorm1d(%view) : f32[N,4]  # bn2
-%relu = ReLU(%bn2) : f32[N,4]  # relu
+%fc_rows = Reshape(%flatten) : f32[N,8]  shape=(-1, 8)  # fc_rows
+%fc = FusedLinear(%fc_rows, bn=%bn) : f32[N,6]  # fc
+%reshape = Reshape(%fc) : f32[N,24,6]  shape=(-1, 24, 6)  # reshape
+%fc2_rows = Reshape(%reshape) : f32[N,6]  shape=(-1, 6)  # fc2_rows
+%fc2 = FusedLinear(%fc2_rows, bn=%bn2) : f32[N,4]  act=ReLU  # fc2
-%view_1 = Reshape(%relu, shape=(%size, -1, 4)) : f32[N,24,4]  # reshape_2
+%view_1 = Reshape(%fc2, shape=(%size, -1, 4)) : f32[N,24,4]  # reshape_2
"""),
        before=(DedupModules(), Functionalize(), DecomposeComposites(), FunctionalToModule()),
    )
