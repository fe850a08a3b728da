"""Where the target tensorrt has its grids, network by network, and that the files compute what was simulated."""

import pytest
from inline_snapshot import snapshot

from tests.targets.networks import check_target

PLACEMENTS = [
    (
        "residuals",
        snapshot("""\
op      kind  weight  inputs     output  why float
--------------------------------------------------
stem    Conv  s8/ch0  s8         s8
a1      Conv  s8/ch0  s8         s8
a2      Conv  s8/ch0  s8
add     Add           float, s8
relu_2  Relu          float      s8
b1      Conv  s8/ch0  s8         s8
b2      Conv  s8/ch0  s8
down    Conv  s8/ch0  s8         s8
add_1   Add           float, s8
relu_4  Relu          float
10 of 10 ops quantized (6 with weights)\
"""),
    ),
    (
        "branches",
        snapshot("""\
op       kind               weight  inputs  output  why float
-------------------------------------------------------------
a        Conv               s8/ch0  s8
b        Conv               s8/ch0  s8
concat   Concat                     float           none of its inputs is on a grid
pool     GlobalAveragePool          s8      s8
squeeze  Conv               s8/ch0  s8      s8
excite   Conv               s8/ch0  s8
sigmoid  Sigmoid                    float           Sigmoid has no integer form on tensorrt
mul      Mul                        float           its result has no grid
5 of 8 ops quantized (4 with weights); float: Concat, Sigmoid, Mul\
"""),
    ),
    (
        "activations",
        snapshot("""\
op  kind         weight  inputs  output  why float
--------------------------------------------------
0   Conv         s8/ch0  s8
1   Swish                float           fused to the layer in front
2   Conv         s8/ch0  s8
3   HardSwish            float           fused to the layer in front
4   Conv         s8/ch0  s8
5   LeakyRelu            float           LeakyRelu has no integer form on tensorrt
6   Conv         s8/ch0  s8
7   Gelu                 float           Gelu has no integer form on tensorrt
8   Conv         s8/ch0  s8
9   Tanh                 float           Tanh has no integer form on tensorrt
10  Conv         s8/ch0  s8
11  HardSigmoid          float           HardSigmoid has no integer form on tensorrt
6 of 12 ops quantized (6 with weights); float: Swish, HardSwish, LeakyRelu, Gelu, Tanh, HardSigmoid\
"""),
    ),
    (
        "convolutions",
        snapshot("""\
op  kind           weight  inputs  output  why float
----------------------------------------------------
0   Conv           s8/ch0  s8      s8
2   Conv           s8/ch0  s8      s8
5   ConvTranspose  s8/ch1  s8
7   Reshape                float           none of its inputs is on a grid
8   Gemm           s8/ch0  s8
4 of 5 ops quantized (4 with weights); float: Reshape\
"""),
    ),
    (
        "attention",
        snapshot("""\
op           kind                weight  inputs  output  why float
------------------------------------------------------------------
embed        Conv                s8/ch0  s8
flatten      Reshape                     float           none of its inputs is on a grid
transpose    Transpose                   float           none of its inputs is on a grid
norm         LayerNormalization          float           LayerNormalization is not quantized on this target
q            Gemm                s8/ch0  s8      s8
k            Gemm                s8/ch0  s8
transpose_1  Transpose                   float           none of its inputs is on a grid
matmul       MatMul                      s8
softmax      Softmax                     float           Softmax is not quantized on this target
v            Gemm                s8/ch0  s8      s8
matmul_1     MatMul                      s8      s8
out          Gemm                s8/ch0  s8
add          Add                         float           no quantized convolution in front takes the sum in
7 of 13 ops quantized (5 with weights); float: 2 Transpose, Reshape, LayerNormalization, Softmax, Add\
"""),
    ),
    (
        "sizes",
        snapshot("""\
op             kind                weight  inputs  output  why float
--------------------------------------------------------------------
first          Conv                s8/ch0  s8
max_pool2d     MaxPool                     float           none of its inputs is on a grid
bn             BatchNormalization          float           a scale layer of its own runs in the float precision
interpolate    Resize-nearest              s8      s8
second         Conv                s8/ch0  s8      s8
interpolate_1  Resize-linear               s8      s8
avg_pool2d     AveragePool                 s8      s8
slice          Slice                       s8
pad            Pad                         s8
third          Conv                s8/ch0  s8
mean           ReduceMean                  float           its result has no grid
8 of 11 ops quantized (3 with weights); float: MaxPool, BatchNormalization, ReduceMean\
"""),
    ),
]


@pytest.mark.parametrize(("name", "expect"), PLACEMENTS, ids=[name for name, _ in PLACEMENTS])
def test_placement(name: str, expect: str) -> None:
    check_target("tensorrt", name, expect)
