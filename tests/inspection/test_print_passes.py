import io

import pytest
from inline_snapshot import snapshot

import qatc
from qatc.errors import PassOrderError
from qatc.inspection import PrintPasses
from qatc.lowering import lowered_proto
from tests.inspection.networks import Pieces, Residual, calibrated
from tests.models import images


def printed(*after: str, diff: bool = False) -> str:
    out = io.StringIO()
    qatc.prepare(Pieces(), images(), observers=(PrintPasses(after, diff, out),))
    return "\n".join(line.partition(" networks.py")[0] for line in out.getvalue().splitlines())


def test_the_graph_is_printed_at_first_and_after_each_pass_that_changed_it() -> None:
    assert printed() == snapshot("""\
# 00 trace: 8 nodes
%x = input() : f32[N,3,8,8]  # x
%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
%chunk = chunk(%conv, 2, dim=1)  #
%getitem = getitem(%chunk, 0) : f32[N,2,8,8]  #
%getitem_1 = getitem(%chunk, 1) : f32[N,2,8,8]  #
%relu = relu(%getitem) : f32[N,2,8,8]  #
%add = add(%relu, %getitem_1) : f32[N,2,8,8]  #
return %add

# 05 functional-to-module: 8 -> 7 nodes
%x = input() : f32[N,3,8,8]  # x
%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
%getitem = Chunk(%conv) : f32[N,2,8,8]  chunks=2 dim=1  # chunk
%getitem_1 = Chunk(%conv) : f32[N,2,8,8]  chunks=2 dim=1 index=1  # chunk_1
%relu = ReLU(%getitem) : f32[N,2,8,8]  # relu
%add = Add(%relu, %getitem_1) : f32[N,2,8,8]  # add
return %add

# 08 insert-quantizers target=onnxruntime: 7 -> 11 nodes
%x = input() : f32[N,3,8,8]  # x
%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
%conv = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv
%conv_q = Tracked(%conv) : f32[N,4,8,8]  u8/asym  # conv_q
%getitem = Chunk(%conv_q) : f32[N,2,8,8]  chunks=2 dim=1  # chunk
%getitem_1 = Chunk(%conv_q) : f32[N,2,8,8]  chunks=2 dim=1 index=1  # chunk_1
%relu = ReLU(%getitem) : f32[N,2,8,8]  # relu
%relu_q = Tracked(%relu) : f32[N,2,8,8]  u8  # relu_q
%add = Add(%relu_q, %getitem_1) : f32[N,2,8,8]  # add
%add_q = Tracked(%add) : f32[N,2,8,8]  u8/asym  # add_q
return %add_q

# 10 leave-clips: 11 -> 11 nodes
%x = input() : f32[N,3,8,8]  # x
%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
%conv = FusedConv2d(%x_q, grid=%x_q, then=%conv_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv
%conv_q = Tracked(%conv) : f32[N,4,8,8]  u8/asym  # conv_q
%getitem = Chunk(%conv_q) : f32[N,2,8,8]  chunks=2 dim=1  # chunk
%getitem_1 = Chunk(%conv_q) : f32[N,2,8,8]  chunks=2 dim=1 index=1  # chunk_1
%relu = ReLU(%getitem, then=%relu_q) : f32[N,2,8,8]  # relu
%relu_q = Tracked(%relu) : f32[N,2,8,8]  u8  # relu_q
%add = Add(%relu_q, %getitem_1) : f32[N,2,8,8]  # add
%add_q = Tracked(%add) : f32[N,2,8,8]  u8/asym  # add_q
return %add_q
""")


def test_or_only_what_each_changed() -> None:
    assert printed(diff=True) == snapshot("""\
# 05 functional-to-module: 8 -> 7 nodes
-%chunk = chunk(%conv, 2, dim=1)  #
-%getitem = getitem(%chunk, 0) : f32[N,2,8,8]  #
-%getitem_1 = getitem(%chunk, 1) : f32[N,2,8,8]  #
-%relu = relu(%getitem) : f32[N,2,8,8]  #
-%add = add(%relu, %getitem_1) : f32[N,2,8,8]  #
+%getitem = Chunk(%conv) : f32[N,2,8,8]  chunks=2 dim=1  # chunk
+%getitem_1 = Chunk(%conv) : f32[N,2,8,8]  chunks=2 dim=1 index=1  # chunk_1
+%relu = ReLU(%getitem) : f32[N,2,8,8]  # relu
+%add = Add(%relu, %getitem_1) : f32[N,2,8,8]  # add

# 08 insert-quantizers target=onnxruntime: 7 -> 11 nodes
-%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
-%getitem = Chunk(%conv) : f32[N,2,8,8]  chunks=2 dim=1  # chunk
-%getitem_1 = Chunk(%conv) : f32[N,2,8,8]  chunks=2 dim=1 index=1  # chunk_1
+%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
+%conv = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv
+%conv_q = Tracked(%conv) : f32[N,4,8,8]  u8/asym  # conv_q
+%getitem = Chunk(%conv_q) : f32[N,2,8,8]  chunks=2 dim=1  # chunk
+%getitem_1 = Chunk(%conv_q) : f32[N,2,8,8]  chunks=2 dim=1 index=1  # chunk_1
-%add = Add(%relu, %getitem_1) : f32[N,2,8,8]  # add
-return %add
+%relu_q = Tracked(%relu) : f32[N,2,8,8]  u8  # relu_q
+%add = Add(%relu_q, %getitem_1) : f32[N,2,8,8]  # add
+%add_q = Tracked(%add) : f32[N,2,8,8]  u8/asym  # add_q
+return %add_q

# 10 leave-clips: 11 -> 11 nodes
-%conv = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv
+%conv = FusedConv2d(%x_q, grid=%x_q, then=%conv_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv
-%relu = ReLU(%getitem) : f32[N,2,8,8]  # relu
+%relu = ReLU(%getitem, then=%relu_q) : f32[N,2,8,8]  # relu
""")


def test_or_only_after_the_passes_named_whether_they_changed_it_or_not() -> None:
    assert printed("insert-quantizers", "fold-bn-self", diff=True) == snapshot("""\
# 07 fold-bn-self: no change

# 08 insert-quantizers target=onnxruntime: 7 -> 11 nodes
-%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
-%getitem = Chunk(%conv) : f32[N,2,8,8]  chunks=2 dim=1  # chunk
-%getitem_1 = Chunk(%conv) : f32[N,2,8,8]  chunks=2 dim=1 index=1  # chunk_1
+%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
+%conv = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv
+%conv_q = Tracked(%conv) : f32[N,4,8,8]  u8/asym  # conv_q
+%getitem = Chunk(%conv_q) : f32[N,2,8,8]  chunks=2 dim=1  # chunk
+%getitem_1 = Chunk(%conv_q) : f32[N,2,8,8]  chunks=2 dim=1 index=1  # chunk_1
-%add = Add(%relu, %getitem_1) : f32[N,2,8,8]  # add
-return %add
+%relu_q = Tracked(%relu) : f32[N,2,8,8]  u8  # relu_q
+%add = Add(%relu_q, %getitem_1) : f32[N,2,8,8]  # add
+%add_q = Tracked(%add) : f32[N,2,8,8]  u8/asym  # add_q
+return %add_q
""")
    assert printed("functional-to-module") == snapshot("""\
# 05 functional-to-module: 8 -> 7 nodes
%x = input() : f32[N,3,8,8]  # x
%conv = Conv2d(%x) : f32[N,4,8,8]  k3 p1  # conv
%getitem = Chunk(%conv) : f32[N,2,8,8]  chunks=2 dim=1  # chunk
%getitem_1 = Chunk(%conv) : f32[N,2,8,8]  chunks=2 dim=1 index=1  # chunk_1
%relu = ReLU(%getitem) : f32[N,2,8,8]  # relu
%add = Add(%relu, %getitem_1) : f32[N,2,8,8]  # add
return %add
""")


def test_a_pass_that_there_is_not_is_named_before_any_runs() -> None:
    out = io.StringIO()
    with pytest.raises(PassOrderError) as caught:
        qatc.prepare(Residual(), images(), observers=(PrintPasses(("fuse",), file=out),))
    assert out.getvalue() == ""
    assert str(caught.value).startswith("no pass is named 'fuse'\n  try: the passes are: dedup-modules, functionalize,")


def test_the_passes_of_lowering_print_too(capsys: pytest.CaptureFixture[str]) -> None:
    lowered_proto(calibrated(Residual()), observers=(PrintPasses(diff=True),))
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("# ")] == snapshot(
        ["# 07 take-clips-back: 8 -> 8 nodes", "# 09 lower-modules target=onnxruntime: 8 -> 8 nodes"]
    )
