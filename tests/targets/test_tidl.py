"""Where the target tidl has its grids, network by network, and that the files compute what was simulated."""

import numpy as np
import onnx
import pytest
import torch
from inline_snapshot import snapshot
from torch import nn

import qatc
from qatc import ir
from qatc.lowering import lowered_proto, verify
from qatc.modules.kinds import op_kind
from qatc.quantizers import Quantizer
from qatc.targets import TARGETS
from tests.models import randomise
from tests.targets.networks import NETWORKS, check_target, placed

PLACEMENTS = [
    (
        "residuals",
        snapshot("""\
op      kind  weight  inputs       output   why float
-----------------------------------------------------
stem    Conv  s8/ch0  s8           u8
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
a        Conv               s8/ch0  s8           u8
b        Conv               s8/ch0  s8           u8/asym
concat   Concat                     u8, u8/asym  s8
pool     GlobalAveragePool          s8           s8
squeeze  Conv               s8/ch0  s8           u8
excite   Conv               s8/ch0  u8           s8
sigmoid  Sigmoid                    s8           u8
mul      Mul                        s8, u8       s8
8 of 8 ops quantized (4 with weights)\
"""),
    ),
    (
        "activations",
        snapshot("""\
op  kind         weight  inputs  output  why float
--------------------------------------------------
0   Conv         s8/ch0  s8      s8
1   Swish                s8      s8
2   Conv         s8/ch0  s8      s8
3   HardSwish            s8      s8
4   Conv         s8/ch0  s8      s8
5   LeakyRelu            s8      s8
6   Conv         s8/ch0  s8      s8
7   Gelu                 s8      s8
8   Conv         s8/ch0  s8      s8
9   Tanh                 s8      s8
10  Conv         s8/ch0  s8      s8
11  HardSigmoid          s8      u8
12 of 12 ops quantized (6 with weights)\
"""),
    ),
    (
        "convolutions",
        snapshot("""\
op  kind           weight  inputs  output   why float
-----------------------------------------------------
0   Conv           s8/ch0  s8      u8
2   Conv           s8/ch0  u8      u8
5   ConvTranspose  s8      u8      u8
7   Reshape                u8
8   Gemm           s8/ch0  u8      u8/asym
5 of 5 ops quantized (4 with weights)\
"""),
    ),
    (
        "attention",
        snapshot("""\
op           kind                weight  inputs   output   why float
--------------------------------------------------------------------
embed        Conv                s8/ch0  s8       u8/asym
flatten      Reshape                     u8/asym
transpose    Transpose                   u8/asym
norm         LayerNormalization          u8/asym  u8/asym
q            Gemm                s8/ch0  u8/asym  s8
k            Gemm                s8/ch0  u8/asym  s8
transpose_1  Transpose                   s8
matmul       MatMul                      s8       s8
softmax      Softmax                     s8       u8
v            Gemm                s8/ch0  u8/asym  s8
matmul_1     MatMul                      u8, s8   s8
out          Gemm                s8/ch0  s8       u8/asym
add          Add                         u8/asym  u8/asym
13 of 13 ops quantized (5 with weights)\
"""),
    ),
    (
        "sizes",
        snapshot("""\
op             kind                weight  inputs  output  why float
--------------------------------------------------------------------
first          Conv                s8/ch0  s8      s8
max_pool2d     MaxPool                     s8      s8
bn             BatchNormalization  s8/ch0  s8      u8
interpolate    Resize-nearest              u8      u8
second         Conv                s8/ch0  u8      s8
interpolate_1  Resize-linear               s8      s8
avg_pool2d     AveragePool                 s8      s8
slice          Slice                       s8
pad            Pad                         s8
third          Conv                s8/ch0  s8      s8
mean           ReduceMean                  s8      s8
11 of 11 ops quantized (4 with weights)\
"""),
    ),
]


@pytest.mark.parametrize(("name", "expect"), PLACEMENTS, ids=[name for name, _ in PLACEMENTS])
def test_placement(name: str, expect: str) -> None:
    check_target("tidl", name, expect)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_tensor_has_a_zero_point_only_where_all_of_its_ops_can(name: str) -> None:
    gm, symmetric = placed(name, "tidl"), {kind for kind, rule in TARGETS["tidl"].ops.items() if rule.grid != "any"}
    seen = 0
    for node, module in ir.module_calls(gm):
        sources = [ir.grid_source(tensor) for tensor in (node, *ir.tensor_inputs(node), *node.users)]
        if not isinstance(module, Quantizer) and op_kind(module) in symmetric:
            for quantizer in filter(None, (ir.module_of(source, Quantizer) for source in sources)):
                seen += 1
                assert quantizer.spec.symmetric, f"{node} lies beside {quantizer.spec}"
    source = ir.module_of(next(iter(next(iter(gm.graph.nodes)).users)), Quantizer)
    assert source is not None
    assert (source.spec.symmetric, source.spec.signed) == (True, True)
    assert seen > 0


def test_a_batch_norm_of_its_own_is_a_depthwise_convolution_of_a_kernel_that_the_device_has() -> None:
    lowered = lowered_proto(placed("sizes", "tidl"))
    conv = next(node for node in lowered.proto.graph.node if node.name == "bn/Conv")
    described = {a.name: onnx.helper.get_attribute_value(a) for a in conv.attribute}
    assert (described["kernel_shape"], described["pads"], described["group"]) == ([3, 3], [1, 1, 1, 1], 4)
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in lowered.proto.graph.initializer}
    weights = constants["bn.weight_codes"]
    assert np.abs(weights[:, 0, 1, 1]).min() > 0
    assert np.count_nonzero(weights) == 4


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_a_batch_norm_of_its_own_of_any_rank_computes_what_was_simulated(rank: int) -> None:
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 5: nn.BatchNorm3d}[rank](6)
    x = torch.randn(8, 6, *[4] * (rank - 2), generator=torch.Generator().manual_seed(rank))
    gm = qatc.prepare(randomise(nn.Sequential(norm, nn.Hardswish())), (x,), "tidl")
    qatc.calibrate(gm, [x], progress=False)
    check = verify(gm, lowered_proto(gm), {"input": x.numpy()})
    assert check.passed, str(check)
    assert check.codes == 3 * x.numel()


def test_the_opset_is_one_that_the_importer_reads() -> None:
    with pytest.raises(qatc.QatcError, match="choose 13 to 19"):
        lowered_proto(placed("branches", "tidl"), opset=20)
