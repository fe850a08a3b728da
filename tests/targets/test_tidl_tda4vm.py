"""Where the target tidl-tda4vm has its grids, network by network, and that the files compute what was simulated."""

import numpy as np
import onnx
import pytest
from inline_snapshot import snapshot

import qatc
from qatc.lowering import lowered_proto, verify
from tests.lowering.networks import data, everything
from tests.targets.networks import NETWORKS, check_target, placed

PLACEMENTS = [
    (
        "residuals",
        snapshot("""\
op      kind  weight   inputs   output   why float
--------------------------------------------------
stem    Conv  s8/pow2  s8/pow2  s8/pow2
a1      Conv  s8/pow2  s8/pow2  s8/pow2
a2      Conv  s8/pow2  s8/pow2  s8/pow2
add     Add            s8/pow2
relu_2  Relu           float    s8/pow2
b1      Conv  s8/pow2  s8/pow2  s8/pow2
b2      Conv  s8/pow2  s8/pow2  s8/pow2
down    Conv  s8/pow2  s8/pow2  s8/pow2
add_1   Add            s8/pow2
relu_4  Relu           float    s8/pow2
note: every scale is a power of two: tidl-tda4vm has no others, whatever the configuration asks for
10 of 10 ops quantized (6 with weights)\
"""),
    ),
    (
        "branches",
        snapshot("""\
op       kind               weight   inputs   output   why float
----------------------------------------------------------------
a        Conv               s8/pow2  s8/pow2  s8/pow2
b        Conv               s8/pow2  s8/pow2  s8/pow2
concat   Concat                      s8/pow2  s8/pow2
pool     GlobalAveragePool           s8/pow2  s8/pow2
squeeze  Conv               s8/pow2  s8/pow2  s8/pow2
excite   Conv               s8/pow2  s8/pow2  s8/pow2
sigmoid  Sigmoid                     s8/pow2  s8/pow2
mul      Mul                         s8/pow2  s8/pow2
note: every scale is a power of two: tidl-tda4vm has no others, whatever the configuration asks for
8 of 8 ops quantized (4 with weights)\
"""),
    ),
    (
        "activations",
        snapshot("""\
op  kind         weight   inputs   output   why float
-----------------------------------------------------
0   Conv         s8/pow2  s8/pow2  s8/pow2
1   Swish                 s8/pow2  s8/pow2
2   Conv         s8/pow2  s8/pow2  s8/pow2
3   HardSwish             s8/pow2  s8/pow2
4   Conv         s8/pow2  s8/pow2  s8/pow2
5   LeakyRelu             s8/pow2  s8/pow2
6   Conv         s8/pow2  s8/pow2  s8/pow2
7   Gelu                  s8/pow2  s8/pow2
8   Conv         s8/pow2  s8/pow2  s8/pow2
9   Tanh                  s8/pow2  s8/pow2
10  Conv         s8/pow2  s8/pow2  s8/pow2
11  HardSigmoid           s8/pow2  s8/pow2
note: every scale is a power of two: tidl-tda4vm has no others, whatever the configuration asks for
12 of 12 ops quantized (6 with weights)\
"""),
    ),
    (
        "convolutions",
        snapshot("""\
op  kind           weight   inputs   output   why float
-------------------------------------------------------
0   Conv           s8/pow2  s8/pow2  s8/pow2
2   Conv           s8/pow2  s8/pow2  s8/pow2
5   ConvTranspose  s8/pow2  s8/pow2  s8/pow2
7   Reshape                 s8/pow2
8   Gemm           s8/pow2  s8/pow2  s8/pow2
note: every scale is a power of two: tidl-tda4vm has no others, whatever the configuration asks for
5 of 5 ops quantized (4 with weights)\
"""),
    ),
    (
        "attention",
        snapshot("""\
op           kind                weight   inputs   output   why float
---------------------------------------------------------------------
embed        Conv                s8/pow2  s8/pow2  s8/pow2
flatten      Reshape                      s8/pow2
transpose    Transpose                    s8/pow2
norm         LayerNormalization           s8/pow2  s8/pow2
q            Gemm                s8/pow2  s8/pow2  s8/pow2
k            Gemm                s8/pow2  s8/pow2  s8/pow2
transpose_1  Transpose                    s8/pow2
matmul       MatMul                       s8/pow2  s8/pow2
softmax      Softmax                      s8/pow2  s8/pow2
v            Gemm                s8/pow2  s8/pow2  s8/pow2
matmul_1     MatMul                       s8/pow2  s8/pow2
out          Gemm                s8/pow2  s8/pow2  s8/pow2
add          Add                          s8/pow2  s8/pow2
note: every scale is a power of two: tidl-tda4vm has no others, whatever the configuration asks for
13 of 13 ops quantized (5 with weights)\
"""),
    ),
    (
        "sizes",
        snapshot("""\
op             kind                weight   inputs   output   why float
-----------------------------------------------------------------------
first          Conv                s8/pow2  s8/pow2  s8/pow2
max_pool2d     MaxPool                      s8/pow2  s8/pow2
bn             BatchNormalization  s8/pow2  s8/pow2  s8/pow2
interpolate    Resize-nearest               s8/pow2  s8/pow2
second         Conv                s8/pow2  s8/pow2  s8/pow2
interpolate_1  Resize-linear                s8/pow2  s8/pow2
avg_pool2d     AveragePool                  s8/pow2  s8/pow2
slice          Slice                        s8/pow2
pad            Pad                          s8/pow2
third          Conv                s8/pow2  s8/pow2  s8/pow2
mean           ReduceMean                   s8/pow2  s8/pow2
note: every scale is a power of two: tidl-tda4vm has no others, whatever the configuration asks for
11 of 11 ops quantized (4 with weights)\
"""),
    ),
]


@pytest.mark.parametrize(("name", "expect"), PLACEMENTS, ids=[name for name, _ in PLACEMENTS])
def test_placement(name: str, expect: str) -> None:
    check_target("tidl-tda4vm", name, expect)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_scale_is_one_power_of_two_and_every_zero_point_0(name: str) -> None:
    proto = lowered_proto(placed(name, "tidl-tda4vm")).proto
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in proto.graph.initializer}
    grids = [node.input[1:3] for node in proto.graph.node if "uantizeLinear" in node.op_type]
    assert len(grids) >= 9
    for scale, zero_point in ((constants[s], constants[z]) for s, z in grids):
        assert np.ptp(scale) == 0
        assert (np.frexp(scale)[0] == 0.5).all()
        assert not zero_point.any()
        assert zero_point.dtype in (np.int8, np.int32)


@pytest.mark.parametrize("pow2", [False, True, "down", "round"])
def test_the_configuration_may_say_how_scales_are_rounded_but_not_that_they_are_free(pow2: object) -> None:
    config = qatc.QConfig(qatc.LayerConfig(activation_quantizer="lsq"), pow2=pow2)  # type: ignore[arg-type]
    gm = qatc.prepare(everything(), data(), target="tidl-tda4vm", config=config)
    qatc.calibrate(gm, [data()], progress=False)
    spec = getattr(gm, "conv_q").spec  # noqa: B009  (a module that prepare made)
    assert spec.pow2 == ("up" if isinstance(pow2, bool) else pow2)
    assert ("no others, whatever the configuration asks for" in str(gm.report)) is (pow2 is False)
    check = verify(gm, lowered_proto(gm), {"x": data(4).numpy()})
    assert check.exact
    assert check.differing_end_to_end == 0
