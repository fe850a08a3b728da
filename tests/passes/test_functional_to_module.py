import pytest
import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.passes import DedupModules, Functionalize, FunctionalToModule
from qatc.printer import format_graph
from qatc.trace import trace
from tests.check_pass import check_pass
from tests.models import (
    Declined,
    Dropouts,
    Functional,
    Keywords,
    Means,
    Numbers,
    Resize,
    Sizes,
    images,
)
from tests.signatures import Dataclasses, DictInDictOut, NamedTuples, samples


def test_functions_operators_and_methods_become_modules() -> None:
    check_pass(
        FunctionalToModule(),
        Functional(),
        snapshot("""\
-%relu = relu(%conv, inplace=False) : f32[N,4,8,8]
-%max_pool2d = max_pool2d(%relu, 2, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False) : f32[N,4,4,4]
-%sigmoid = sigmoid(%max_pool2d) : f32[N,4,4,4]
-%mul = mul(%sigmoid, %max_pool2d) : f32[N,4,4,4]
-%cat = cat([%max_pool2d, %mul], dim=1) : f32[N,8,4,4]
-%adaptive_avg_pool2d = adaptive_avg_pool2d(%cat, 1) : f32[N,8,1,1]
-%flatten = flatten(%adaptive_avg_pool2d, 1) : f32[N,8]
-%dropout = dropout(%flatten, p=0.5, training=True, inplace=False) : f32[N,8]
+%relu = ReLU(%conv) : f32[N,4,8,8]  # relu
+%max_pool2d = MaxPool2d(%relu) : f32[N,4,4,4]  k2 s2  # max_pool2d
+%sigmoid = Sigmoid(%max_pool2d) : f32[N,4,4,4]  # sigmoid
+%mul = Mul(%sigmoid, %max_pool2d) : f32[N,4,4,4]  # mul
+%cat = Concat([%max_pool2d, %mul]) : f32[N,8,4,4]  dim=1  # concat
+%adaptive_avg_pool2d = AdaptiveAvgPool2d(%cat) : f32[N,8,1,1]  output_size=1  # adaptive_avg_pool2d
+%flatten = Flatten(%adaptive_avg_pool2d) : f32[N,8]  # flatten
+%dropout = Dropout(%flatten) : f32[N,8]  # dropout
-%softmax = softmax(%fc, dim=-1, _stacklevel=3, dtype=None) : f32[N,5]
+%softmax = Softmax(%fc) : f32[N,5]  dim=-1  # softmax
"""),  # noqa: E501  (the dump has long lines)
    )


def test_numbers_on_either_side_of_an_operator_stay_arguments() -> None:
    check_pass(
        FunctionalToModule(),
        Numbers(),
        snapshot("""\
-%add = add(%conv, 1.0) : f32[N,4,8,8]
-%mul = mul(%add, 2) : f32[N,4,8,8]
-%truediv = truediv(%mul, 3.0) : f32[N,4,8,8]
-%sub = sub(1.0, %truediv) : f32[N,4,8,8]
+%add = Add(%conv, 1.0) : f32[N,4,8,8]  # add
+%mul = Mul(%add, 2) : f32[N,4,8,8]  # mul
+%truediv = Div(%mul, 3.0) : f32[N,4,8,8]  # div
+%sub = Sub(1.0, %truediv) : f32[N,4,8,8]  # sub
"""),
    )


def test_arithmetic_on_sizes_is_left() -> None:
    check_pass(
        FunctionalToModule(),
        Sizes(),
        snapshot("""\
-%mul = mul(%conv, %pow_1) : f32[N,4,8,8]
+%mul = Mul(%conv, %pow_1) : f32[N,4,8,8]  # mul
-%reshape = reshape(%mul, %size_1, %mul_2) : f32[N,256]
+%reshape = Reshape(%mul, shape=(%size_1, %mul_2)) : f32[N,256]  # reshape
"""),
    )


def test_a_size_that_the_network_computes_stays_an_argument_of_interpolate() -> None:
    check_pass(
        FunctionalToModule(),
        Resize(),
        snapshot("""\
-%interpolate = interpolate(%down, size=(%size, %size_1), scale_factor=None, mode='bilinear', align_corners=False, recompute_scale_factor=None, antialias=False) : f32[N,4,8,8]
-%add = add(%interpolate, %side) : f32[N,4,8,8]
-%interpolate_1 = interpolate(%add, size=None, scale_factor=2.0, mode='nearest', align_corners=None, recompute_scale_factor=None, antialias=False) : f32[N,4,16,16]
+%interpolate = Interpolate(%down, size=(%size, %size_1)) : f32[N,4,8,8]  mode='bilinear' align_corners=False  # interpolate
+%add = Add(%interpolate, %side) : f32[N,4,8,8]  # add
+%interpolate_1 = Interpolate(%add) : f32[N,4,16,16]  scale_factor=2.0  # interpolate_1
"""),  # noqa: E501  (the dump has long lines)
    )


def test_a_mean_keeps_its_dimensions_and_its_keepdim() -> None:
    check_pass(
        FunctionalToModule(),
        Means(),
        snapshot("""\
-%mean = mean(%conv, dim=[2, 3], keepdim=True) : f32[N,4,1,1]
-%mul = mul(%conv, %mean) : f32[N,4,8,8]
-%mean_1 = mean(%mul, (2, 3)) : f32[N,4]
-%mean_2 = mean(%conv, 2, keepdim=False) : f32[N,4,8]
-%mean_3 = mean(%mean_2, -1) : f32[N,4]
-%add = add(%mean_1, %mean_3) : f32[N,4]
-%mean_4 = mean(%conv, None, True) : f32[1,1,1,1]
-%sum_1 = sum(%mean_4) : f32[]
-%add_1 = add(%add, %sum_1) : f32[N,4]
+%mean = Mean(%conv) : f32[N,4,1,1]  dim=(2, 3) keepdim=True  # mean
+%mul = Mul(%conv, %mean) : f32[N,4,8,8]  # mul
+%mean_1 = Mean(%mul) : f32[N,4]  dim=(2, 3)  # mean_1
+%mean_2 = Mean(%conv) : f32[N,4,8]  dim=2  # mean_2
+%mean_3 = Mean(%mean_2) : f32[N,4]  dim=-1  # mean_3
+%add = Add(%mean_1, %mean_3) : f32[N,4]  # add
+%mean_4 = Mean(%conv) : f32[1,1,1,1]  keepdim=True  # mean_4
+%sum_1 = Sum(%mean_4) : f32[]  # sum
+%add_1 = Add(%add, %sum_1) : f32[N,4]  # add_1
"""),
    )


def test_dropout_follows_the_mode_again() -> None:
    gm = check_pass(
        FunctionalToModule(),
        Dropouts(),
        snapshot("""\
-%dropout = dropout(%conv, p=0.5, training=True, inplace=False) : f32[N,4,8,8]
+%dropout = Dropout(%conv) : f32[N,4,8,8]  # dropout
"""),
    )
    x = images()
    assert torch.equal(gm.eval()(x), gm(x))
    assert not torch.equal(gm.train()(x), gm(x))


def test_calls_that_no_module_expresses_are_left() -> None:
    check_pass(
        FunctionalToModule(),
        Declined(),
        snapshot("""\
-%relu = relu(%conv) : f32[N,4,8,8]
+%relu = ReLU(%conv) : f32[N,4,8,8]  # relu
-%mean = mean(%add) : f32[]
+%mean = Mean(%add) : f32[]  # mean
"""),
    )


def test_arguments_given_by_name_are_found() -> None:
    check_pass(
        FunctionalToModule(),
        Keywords(),
        snapshot("""\
-%max_pool2d = max_pool2d(%relu, 3, stride=1, padding=1, dilation=1, ceil_mode=False, return_indices=False) : f32[N,4,8,8]
-%add = add(input=%max_pool2d, other=%max_pool2d) : f32[N,4,8,8]
-%cat = cat(tensors=(%max_pool2d, %add), dim=1) : f32[N,8,8,8]
+%max_pool2d = MaxPool2d(%relu) : f32[N,4,8,8]  k3 s1 p1  # max_pool2d
+%add = Add(%max_pool2d, %max_pool2d) : f32[N,4,8,8]  # add
+%cat = Concat((%max_pool2d, %add)) : f32[N,8,8,8]  dim=1  # concat
"""),  # noqa: E501  (the dump has long lines)
        before=[Functionalize()],
    )


def test_a_function_is_named_after_the_module_that_calls_it() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Functional()

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(F.relu(self.inner(x)))

    gm = trace(Outer())
    for step in (DedupModules(), Functionalize(), FunctionalToModule()):
        step.run(gm)
    assert [n.target for n in gm.graph.nodes if n.op == "call_module"] == snapshot(
        [
            "inner.conv",
            "inner.relu",
            "inner.max_pool2d",
            "inner.sigmoid",
            "inner.mul",
            "inner.concat",
            "inner.adaptive_avg_pool2d",
            "inner.flatten",
            "inner.dropout",
            "inner.fc",
            "inner.softmax",
            "relu",
            "relu_1",
        ]
    )


def test_without_types_sizes_are_told_from_tensors_by_what_makes_them() -> None:
    gm = trace(Sizes())
    FunctionalToModule().run(gm)
    assert format_graph(gm, locations=False) == snapshot("""\
%x = input()  # x
%conv = Conv2d(%x)  k3 p1  # conv
%size = size(%conv, -1)
%pow_1 = pow(%size, -0.5)
%mul = Mul(%conv, %pow_1)  # mul
%getattr_1 = getattr(%mul, 'shape')
%getitem = getitem(%getattr_1, 0)
%getattr_2 = getattr(%mul, 'shape')
%getitem_1 = getitem(%getattr_2, 1)
%size_1 = size(%mul, 2)
%mul_1 = mul(%getitem_1, %size_1)
%size_2 = size(%mul, 3)
%mul_2 = mul(%mul_1, %size_2)
%reshape = Reshape(%mul, shape=(%getitem, %mul_2))  # reshape
%fc = Linear(%reshape)  # fc
return %fc
""")


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize("kind", [DictInDictOut, Dataclasses, NamedTuples])
def test_what_takes_tensors_out_of_arguments_is_no_op_that_stays_in_float(kind: type[nn.Module], typed: bool) -> None:
    gm = qatc.prepare(kind(), samples(0)[kind] if typed else None)
    named_by_index = [] if typed or kind is not NamedTuples else ["getitem"]
    assert [row.kind for row in gm.report.rows if row.kind not in ("Conv", "Add")] == named_by_index


class JoinsOne(nn.Module):
    """DenseNet's first layer concatenates the one tensor that there is so far."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x), 2)
        y = self.first(torch.cat([x], 1))
        z: Tensor = self.second(torch.cat([x, y], 1))
        return z


def test_a_concatenation_of_one_tensor_is_that_tensor() -> None:
    """With a grid of its own behind it, ONNX Runtime leaves the pool and every concatenation behind it in float."""
    gm = check_pass(
        FunctionalToModule(),
        JoinsOne(),
        snapshot("""\
-%max_pool2d = max_pool2d(%conv, 2, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False) : f32[N,4,4,4]
-%cat = cat([%max_pool2d], 1) : f32[N,4,4,4]
-%first = Conv2d(%cat) : f32[N,4,4,4]  k1  # first
-%cat_1 = cat([%max_pool2d, %first], 1) : f32[N,8,4,4]
+%max_pool2d = MaxPool2d(%conv) : f32[N,4,4,4]  k2 s2  # max_pool2d
+%first = Conv2d(%max_pool2d) : f32[N,4,4,4]  k1  # first
+%cat_1 = Concat([%max_pool2d, %first]) : f32[N,8,4,4]  dim=1  # concat
"""),  # noqa: E501  (the dump has long lines)
    )
    assert [path for path, module in gm.named_modules() if type(module).__name__ == "Concat"] == ["concat"]
