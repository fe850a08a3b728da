"""Ops that move values hand the grid on, where the runtime carries codes past them or between Q and DQ."""

from typing import Any

import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.config import config_of
from qatc.masks import masks
from qatc.passes import InsertQuantizers
from qatc.quantizers import Quantizer
from qatc.targets import target_of
from tests.attention_models import ByHand
from tests.check_pass import check_pass
from tests.models import conv, images, randomise
from tests.prepared import BEFORE_QUANTIZERS, placed, reasons


class Moves(nn.Module):
    """A slice and a nearest resize before one convolution, repetitions before a result that nothing quantizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(2, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        z = F.interpolate(y[:, :2], scale_factor=2.0)
        return self.b(z), y.repeat(1, 2, 1, 1).tanh()


def check(expect: str, target: str) -> None:
    class OneResult(Moves):
        def forward(self, x: Tensor) -> Any:
            first, second = super().forward(x)
            return first + second.mean()

    check_pass(InsertQuantizers(target_of(target), config_of("w8a8")), OneResult(), expect, before=BEFORE_QUANTIZERS)


def test_on_onnxruntime_the_grid_stands_behind_a_resize_once_more() -> None:
    check(
        snapshot("""\
-%a = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # a
-%getitem = Slice(%a) : f32[N,2,8,8]  index=(slice(None, None, None), slice(None, 2, None))  # slice
+%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
+%a = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # a
+%a_q = Tracked(%a, 0) : f32[N,4,8,8]  u8/asym  # a_q
+%getitem = Slice(%a_q) : f32[N,2,8,8]  index=(slice(None, None, None), slice(None, 2, None))  # slice
-%b = Conv2d(%interpolate) : f32[N,4,16,16]  k3 p1  # b
-%repeat = Tile(%a) : f32[N,8,8,8]  repeats=(1, 2, 1, 1)  # repeat
+%a_q_1 = Tracked(%interpolate, 1) : f32[N,2,16,16]  u8/asym  # a_q
+%b = FusedConv2d(%a_q_1, grid=%a_q) : f32[N,4,16,16]  k3 p1  w=s8/ch0  # b
+%b_q = Tracked(%b) : f32[N,4,16,16]  u8/asym  # b_q
+%repeat = Tile(%a_q) : f32[N,8,8,8]  repeats=(1, 2, 1, 1)  # repeat
-%mean = Mean(%tanh) : f32[]  # mean
-%add = Add(%b, %mean) : f32[N,4,16,16]  # add
-return %add
+%tanh_q = Tracked(%tanh) : f32[N,8,8,8]  u8/asym  # tanh_q
+%mean = Mean(%tanh_q) : f32[]  # mean
+%mean_q = Tracked(%mean) : f32[]  u8/asym  # mean_q
+%add = Add(%b_q, %mean_q) : f32[N,4,16,16]  # add
+%add_q = Tracked(%add) : f32[N,4,16,16]  u8/asym  # add_q
+return %add_q
"""),
        "onnxruntime",
    )


def test_on_tensorrt_a_resize_has_grids_of_its_own() -> None:
    check(
        snapshot("""\
-%a = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # a
+%x_q = Tracked(%x) : f32[N,3,8,8]  s8  # x_q
+%a = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # a
-%interpolate = Interpolate(%getitem) : f32[N,2,16,16]  scale_factor=2.0  # interpolate
-%b = Conv2d(%interpolate) : f32[N,4,16,16]  k3 p1  # b
+%slice_q = Tracked(%getitem) : f32[N,2,8,8]  s8  # slice_q
+%interpolate = Interpolate(%slice_q) : f32[N,2,16,16]  scale_factor=2.0  # interpolate
+%interpolate_q = Tracked(%interpolate) : f32[N,2,16,16]  s8  # interpolate_q
+%b = FusedConv2d(%interpolate_q, grid=%interpolate_q) : f32[N,4,16,16]  k3 p1  w=s8/ch0  # b
-%mean = Mean(%tanh) : f32[]  # mean
-%add = Add(%b, %mean) : f32[N,4,16,16]  # add
+%tanh_q = Tracked(%tanh) : f32[N,8,8,8]  s8  # tanh_q
+%mean = Mean(%tanh_q) : f32[]  # mean
+%mean_q = Tracked(%mean) : f32[]  s8  # mean_q
+%add = Add(%b, %mean_q) : f32[N,4,16,16]  # add
"""),
        "tensorrt",
    )


class Padded(nn.Module):
    """Zeros around an image that a float op made, for a convolution alone, and for a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.pool = conv(3, 4), nn.Conv2d(4, 4, 3), nn.AvgPool2d(3)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Any:
        y = self.b(self.pad(F.hardswish(self.a(x))))
        return self.pool(F.pad(y, (1, 1, 1, 1)))


def check_padded(target: str, expect: str) -> None:
    check_pass(InsertQuantizers(target_of(target), config_of("w8a8")), Padded(), expect, before=BEFORE_QUANTIZERS)


def test_zeros_that_a_convolution_takes_in_keep_the_grid_and_others_have_it_again_on_onnxruntime() -> None:
    check_padded(
        "onnxruntime",
        snapshot("""\
-%a = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # a
-%hardswish = Hardswish(%a) : f32[N,4,8,8]  # hardswish
-%pad = ZeroPad2d(%hardswish) : f32[N,4,9,9]  p0x1x0x1  # pad
-%b = Conv2d(%pad) : f32[N,4,7,7]  k3  # b
-%pad_1 = Pad(%b) : f32[N,4,9,9]  pad=(1, 1, 1, 1)  # pad_1
-%pool = AvgPool2d(%pad_1) : f32[N,4,3,3]  k3 s3  # pool
-return %pool
+%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
+%a = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # a
+%a_q = Tracked(%a) : f32[N,4,8,8]  u8/asym  # a_q
+%hardswish = Hardswish(%a_q) : f32[N,4,8,8]  # hardswish
+%hardswish_q = Tracked(%hardswish) : f32[N,4,8,8]  u8/asym  # hardswish_q
+%pad = ZeroPad2d(%hardswish_q) : f32[N,4,9,9]  p0x1x0x1  # pad
+%b = FusedConv2d(%pad, grid=%hardswish_q) : f32[N,4,7,7]  k3  w=s8/ch0  # b
+%b_q = Tracked(%b, 0) : f32[N,4,7,7]  u8/asym  # b_q
+%pad_1 = Pad(%b_q) : f32[N,4,9,9]  pad=(1, 1, 1, 1)  # pad_1
+%b_q_1 = Tracked(%pad_1, 1) : f32[N,4,9,9]  u8/asym  # b_q
+%pool = AvgPool2d(%b_q_1) : f32[N,4,3,3]  k3 s3  # pool
+%pool_q = Tracked(%pool) : f32[N,4,3,3]  u8/asym  # pool_q
+return %pool_q
"""),
    )


def test_zeros_that_a_convolution_takes_in_keep_the_grid_and_others_are_float_on_tensorrt() -> None:
    check_padded(
        "tensorrt",
        snapshot("""\
-%a = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # a
+%x_q = Tracked(%x) : f32[N,3,8,8]  s8  # x_q
+%a = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # a
-%pad = ZeroPad2d(%hardswish) : f32[N,4,9,9]  p0x1x0x1  # pad
-%b = Conv2d(%pad) : f32[N,4,7,7]  k3  # b
+%hardswish_q = Tracked(%hardswish) : f32[N,4,8,8]  s8  # hardswish_q
+%pad = ZeroPad2d(%hardswish_q) : f32[N,4,9,9]  p0x1x0x1  # pad
+%b = FusedConv2d(%pad, grid=%hardswish_q) : f32[N,4,7,7]  k3  w=s8/ch0  # b
"""),
    )


class Elsewhere(nn.Module):
    """Borders that no convolution takes in: of channels, before one of its own kind, before a float one, cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.channels, self.cut = conv(3, 4), nn.Conv2d(5, 4, 3), conv(4, 4)
        self.ring, self.excluded = conv(4, 4, padding_mode="circular"), conv(4, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        z = self.channels(F.pad(y, (1, 1, 1, 1, 0, 1))), self.ring(F.pad(y, (1, 1))), self.excluded(F.pad(y, (0, 1)))
        return *z, self.cut(F.pad(y, (1, -1))), self.cut(F.pad(y, (1, 1), value=0.5))


def test_only_zeros_around_positions_in_front_of_a_quantized_convolution_are_taken_in() -> None:
    config = qatc.QConfig(rules=(qatc.Rule("excluded", quantize=False),))
    gm = placed(Elsewhere(), "tensorrt", config)
    reason = "a padding layer of its own runs in the float precision"
    floats = {name: why for name, why in reasons(gm).items() if name.startswith("pad")}
    assert floats == dict.fromkeys(("pad", "pad_1", "pad_2", "pad_3"), reason) | {
        "pad_4": "Pad-constant has no integer form on tensorrt"
    }


def test_one_grid_at_two_places_has_a_range_for_each() -> None:
    gm = qatc.prepare(randomise(Moves()), images())
    qatc.calibrate(gm, [images()], progress=False)
    sites = {n: m.sites for n, m in gm.named_modules() if isinstance(m, Quantizer) and m.sites > 1}
    assert sites == {"a_q": 2}


def test_masks_are_found_by_their_values_and_by_what_they_are_added_to() -> None:
    class Masks(ByHand):
        def forward(self, x: Tensor) -> Any:
            blocked = torch.where(x > 0, x, torch.full_like(x, -1e9)).transpose(1, 2)
            return super().forward(x) + blocked.sigmoid().transpose(1, 2)

    gm = placed(Masks(), inputs=images(4, 6, 8))
    assert [node.name for node in gm.graph.nodes if node in masks(gm.graph)] == snapshot(
        ["full_like", "where", "transpose", "table", "add", "mask", "add_1"]
    )
    assert {name: why for name, why in reasons(gm).items() if ".py" not in name} == snapshot(
        {
            "transpose": "a mask, or scores with a mask or a bias added: infinities fit no grid",
            "div": "Div has no integer form on onnxruntime",
            "add": "a mask, or scores with a mask or a bias added: infinities fit no grid",
            "add_1": "a mask, or scores with a mask or a bias added: infinities fit no grid",
            "softmax": "the integer Softmax moves 0.3 % of the codes",
            "sigmoid": "a mask, or scores with a mask or a bias added: infinities fit no grid",
            "transpose_2": "none of its inputs is on a grid",
        }
    )
