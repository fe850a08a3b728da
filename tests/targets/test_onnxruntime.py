"""Where the target onnxruntime has its grids, network by network, and that the files compute what was simulated."""

import pytest
from inline_snapshot import snapshot

from tests.targets.networks import check_target

PLACEMENTS = [
    (
        "residuals",
        snapshot("""\
op      kind  weight  inputs       output   why float
-----------------------------------------------------
stem    Conv  s8/ch0  u8/asym      u8
a1      Conv  s8/ch0  u8           u8
a2      Conv  s8/ch0  u8           u8/asym
add     Add           u8/asym, u8
relu_2  Relu          float        u8
b1      Conv  s8/ch0  u8           u8
b2      Conv  s8/ch0  u8           u8/asym
down    Conv  s8/ch0  u8           u8/asym
add_1   Add           u8/asym
relu_4  Relu          float        u8
10 of 10 ops quantized (6 with weights)\
"""),
    ),
    (
        "branches",
        snapshot("""\
op       kind               weight  inputs       output   why float
-------------------------------------------------------------------
a        Conv               s8/ch0  u8/asym      u8
b        Conv               s8/ch0  u8/asym      u8/asym
concat   Concat                     u8, u8/asym  u8/asym
pool     GlobalAveragePool          u8/asym      u8/asym
squeeze  Conv               s8/ch0  u8/asym      u8
excite   Conv               s8/ch0  u8           u8/asym
sigmoid  Sigmoid                    u8/asym      u8
mul      Mul                        u8/asym, u8  u8/asym
8 of 8 ops quantized (4 with weights)\
"""),
    ),
    (
        "activations",
        snapshot("""\
op         kind         weight  inputs       output   why float
---------------------------------------------------------------
0          Conv         s8/ch0  u8/asym      u8/asym
1_sigmoid  Sigmoid              u8/asym      u8
1          Mul                  u8/asym, u8  u8/asym
2          Conv         s8/ch0  u8/asym      u8/asym
3          HardSwish            u8/asym               HardSwish has no integer kernel
4          Conv         s8/ch0  u8/asym      u8/asym
5          LeakyRelu            u8/asym      u8/asym
6          Conv         s8/ch0  u8/asym      u8/asym
7          Gelu                 u8/asym               Gelu has no integer form on onnxruntime
8          Conv         s8/ch0  u8/asym      u8/asym
9          Tanh                 u8/asym               Tanh has no integer form on onnxruntime
10         Conv         s8/ch0  u8/asym      u8/asym
11         HardSigmoid          u8/asym               HardSigmoid has no integer form on onnxruntime
9 of 13 ops quantized (6 with weights); float: HardSwish, Gelu, Tanh, HardSigmoid\
"""),
    ),
    (
        "convolutions",
        snapshot("""\
op  kind           weight  inputs   output  why float
-----------------------------------------------------
0   Conv           s8/ch0  u8/asym  u8
2   Conv           s8/ch0  u8       u8
5   ConvTranspose  s8/ch1  u8       u8
7   Reshape                u8
8   Gemm           s8/ch0  u8
5 of 5 ops quantized (4 with weights)\
"""),
    ),
    (
        "attention",
        snapshot("""\
op           kind                weight  inputs       output   why float
------------------------------------------------------------------------
embed        Conv                s8/ch0  u8/asym      u8/asym
flatten      Reshape                     u8/asym
transpose    Transpose                   u8/asym
norm         LayerNormalization          u8/asym               LayerNormalization has no integer form on onnxruntime
q            Gemm                s8/ch0  u8/asym      u8/asym
k            Gemm                s8/ch0  u8/asym      u8/asym
transpose_1  Transpose                   u8/asym
matmul       MatMul                      u8/asym
softmax      Softmax                     float                 the integer Softmax moves 0.3 % of the codes
v            Gemm                s8/ch0  u8/asym      u8/asym
matmul_1     MatMul                      u8, u8/asym  u8/asym
out          Gemm                s8/ch0  u8/asym      u8/asym
add          Add                         u8/asym      u8/asym
11 of 13 ops quantized (5 with weights); float: LayerNormalization, Softmax\
"""),
    ),
    (
        "sizes",
        snapshot("""\
op             kind                weight  inputs   output   why float
----------------------------------------------------------------------
first          Conv                s8/ch0  u8/asym  u8/asym
max_pool2d     MaxPool                     u8/asym
bn             BatchNormalization  s8/ch0  u8/asym  u8
interpolate    Resize-nearest              u8       u8
second         Conv                s8/ch0  u8       u8/asym
interpolate_1  Resize-linear               u8/asym           linear interpolation has no integer kernel
avg_pool2d     AveragePool                 u8/asym  u8/asym
slice          Slice                       u8/asym
pad            Pad                         u8/asym
third          Conv                s8/ch0  u8/asym  u8/asym
mean           ReduceMean                  u8/asym  u8/asym
10 of 11 ops quantized (4 with weights); float: Resize-linear\
"""),
    ),
]


@pytest.mark.parametrize(("name", "expect"), PLACEMENTS, ids=[name for name, _ in PLACEMENTS])
def test_placement(name: str, expect: str) -> None:
    check_target("onnxruntime", name, expect)
