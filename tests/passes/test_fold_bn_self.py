from typing import Any

import torch
from inline_snapshot import snapshot
from torch import nn

from qatc import ir
from qatc.passes import DedupModules, FoldBnSelf, Functionalize, FunctionalToModule, FuseConvBnAct
from tests.check_pass import check_pass
from tests.models import ConvBnAct, ConvReadTwice, PreActivation, SharedBatchNormAlone, conv, images

BEFORE = (DedupModules(), Functionalize(), FunctionalToModule(), FuseConvBnAct())


def test_a_bn_with_no_layer_in_front_becomes_a_multiply_add_with_its_activation() -> None:
    check_pass(
        FoldBnSelf(),
        PreActivation(),
        snapshot("""\
-%bn1 = BatchNorm2d(%x) : f32[N,3,8,8]  # bn1
-%relu = ReLU(%bn1) : f32[N,3,8,8]  # relu
-%conv = Conv2d(%relu) : f32[N,4,8,8]  k3 p1  # conv
+%bn1 = FusedBatchNorm(%x) : f32[N,3,8,8]  act=ReLU  # bn1
+%conv = Conv2d(%bn1) : f32[N,4,8,8]  k3 p1  # conv
-%bn2 = BatchNorm2d(%cat) : f32[N,7,8,8]  # bn2
+%bn2 = FusedBatchNorm(%cat) : f32[N,7,8,8]  # bn2
"""),
        before=BEFORE,
    )


def test_a_bn_behind_a_convolution_that_something_else_reads_is_folded_by_itself() -> None:
    check_pass(
        FoldBnSelf(),
        ConvReadTwice(),
        snapshot("""\
-%bn = BatchNorm2d(%conv) : f32[N,4,8,8]  # bn
+%bn = FusedBatchNorm(%conv) : f32[N,4,8,8]  # bn
"""),
        before=BEFORE,
    )


def test_a_bn_called_twice_stays_one_and_takes_no_activation() -> None:
    check_pass(
        FoldBnSelf(),
        SharedBatchNormAlone(),
        snapshot("""\
-%bn = BatchNorm2d(%x) : f32[N,3,8,8]  # bn
+%bn = FusedBatchNorm(%x) : f32[N,3,8,8]  # bn
-%bn_1 = BatchNorm2d(%pool) : f32[N,3,4,4]  # bn
+%bn_1 = FusedBatchNorm(%pool) : f32[N,3,4,4]  # bn
"""),
        before=BEFORE,
    )


def test_a_fused_bn_is_left() -> None:
    check_pass(FoldBnSelf(), ConvBnAct(bn=nn.BatchNorm2d(4)), snapshot(""), before=BEFORE)


def test_a_bn_without_running_statistics_is_left_and_says_why() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), conv(3, 4))
    gm = check_pass(FoldBnSelf(), model, snapshot(""), before=BEFORE)
    reasons = [ir.why_float(node) for node, _ in ir.module_calls(gm)]
    assert reasons == snapshot(["it has no running statistics (track_running_stats=False)", ""])


def test_a_bn_of_one_dimension_reads_two_and_three() -> None:
    check_pass(
        FoldBnSelf(),
        nn.Sequential(nn.BatchNorm1d(6)),
        snapshot("""\
-%_0 = BatchNorm1d(%input_1) : f32[N,6]  # 0
+%_0 = FusedBatchNorm(%input_1) : f32[N,6]  # 0
"""),
        images(8, 6),
        before=BEFORE,
    )
    check_pass(
        FoldBnSelf(),
        nn.Sequential(nn.BatchNorm1d(6)),
        snapshot("""\
-%_0 = BatchNorm1d(%input_1) : f32[N,6,5]  # 0
+%_0 = FusedBatchNorm(%input_1) : f32[N,6,5]  # 0
"""),
        images(8, 6, 5),
        before=BEFORE,
    )


def test_its_factor_is_its_weight() -> None:
    gm = check_pass(
        FoldBnSelf(),
        nn.Sequential(nn.BatchNorm2d(3, eps=0.5)),
        snapshot("""\
-%_0 = BatchNorm2d(%input_1) : f32[N,3,8,8]  eps=0.5  # 0
+%_0 = FusedBatchNorm(%input_1) : f32[N,3,8,8]  eps=0.5  # 0
"""),
        before=BEFORE,
    )
    bn: Any = gm.get_submodule("0")
    torch.testing.assert_close(bn.fold(None).weight, bn.weight / (bn.running_var + bn.eps).sqrt())
