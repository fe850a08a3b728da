"""Each operator between grids, beside ONNX Runtime's integer kernel of it."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F

from qatc import simulator
from qatc.errors import SimulationError
from qatc.simulator.convolutions import convolved, transposed
from qatc.simulator.numerics import Numerics
from tests.lowering.networks import optimized_ops
from tests.simulator.agreement import agreement
from tests.simulator.graphs import Graph, codes, normal

Made = tuple[onnx.ModelProto, dict[str, Any], str]


def convolution(rank: int, groups: int, **attributes: Any) -> Made:
    g = Graph()
    x = g.input((2, 4, *[9] * rank))
    scale = np.float32(0.01) + np.arange(6, dtype=np.float32) / 1000 if groups < 4 else np.full(8, 0.02, np.float32)
    weight = codes(len(scale), 4 // groups, *[3] * rank)
    step = np.float32(0.02) * scale
    bias = g.weight(np.arange(len(scale), dtype=np.int32) * 100, step)
    y = g.op("Conv", x, g.weight(weight, scale), bias, group=groups, **attributes)
    return g.model(g.quantized(y, 0.05, 120), rank + 2), {"x0": normal(2, 4, *[9] * rank)}, "QLinearConv"


def matrices(kind: str) -> Made:
    g = Graph()
    x = g.input((5, 12))
    scale = np.float32(0.01) + np.arange(7, dtype=np.float32) / 1000
    if kind == "Gemm":
        bias = g.weight(np.arange(7, dtype=np.int32) * 50, np.float32(0.02) * scale)
        y = g.op("Gemm", x, g.weight(codes(7, 12), scale), bias, transB=1)
    elif kind == "Gemm, not turned":
        y = g.op("Gemm", x, g.weight(codes(12, 7), scale, axis=1))
    elif kind == "MatMul":
        y = g.op("MatMul", x, g.weight(codes(12, 7), scale, axis=1))
    else:
        y = g.op("MatMul", x, g.weight(codes(12, 7), np.float32(0.01), zero=np.int8(3)))
    named = "QGemm" if kind.startswith("Gemm") else "QLinearMatMul"
    return g.model(g.quantized(y, 0.06, 101), 2), {"x0": normal(5, 12)}, named


def pair(kind: str, second: tuple[int, ...], zero: int = 131) -> Made:
    g = Graph()
    x, y = g.input((2, 4, 6, 6)), g.input(second, 0.0173, 118)
    feeds = {"x0": normal(2, 4, 6, 6), "x1": normal(*second, seed=2)}
    return g.model(g.quantized(g.op(kind, x, y), 0.0311, zero), 4), feeds, f"QLinear{kind}"


def single(kind: str, named: str, *constants: Any, **attributes: Any) -> Made:
    g = Graph(20 if kind == "Gelu" else 18)
    y = g.op(kind, g.input((2, 4, 10, 10)), *(g.constant(c) for c in constants), **attributes)
    return g.model(g.quantized(y, 0.0151, 99), 4), {"x0": normal(2, 4, 10, 10)}, named


def joined() -> Made:
    g = Graph()
    y = g.op("Concat", g.input((2, 4, 6, 6)), g.input((2, 3, 6, 6), 0.03, 90), axis=1)
    feeds = {"x0": normal(2, 4, 6, 6), "x1": normal(2, 3, 6, 6, seed=2)}
    return g.model(g.quantized(y, 0.025, 128), 4), feeds, "QLinearConcat"


CASES: dict[str, Made] = {
    "Conv 1d": convolution(1, 1, pads=[1, 2], strides=[2]),
    "Conv 2d": convolution(2, 1, pads=[1, 0, 2, 1], dilations=[2, 1]),
    "Conv 3d": convolution(3, 1, strides=[2, 1, 2]),
    "Conv in groups": convolution(2, 2, strides=[2, 2], pads=[1, 1, 1, 1]),
    "Conv, depthwise": convolution(2, 4, pads=[1, 1, 1, 1]),
    "Conv, padded to the size": convolution(2, 1, auto_pad="SAME_UPPER", strides=[2, 2]),
    "Conv, padded in front": convolution(2, 1, auto_pad="SAME_LOWER", strides=[2, 2]),
    "Conv, not padded": convolution(2, 1, auto_pad="VALID"),
    **{kind: matrices(kind) for kind in ("Gemm", "Gemm, not turned", "MatMul", "MatMul, weights with a zero point")},
    **{f"{kind} with {second}": pair(kind, second) for kind in ("Add", "Mul")
       for second in ((2, 4, 6, 6), (2, 4, 1, 1), (1, 1, 1, 1), (6,))},
    "Add, zero point even": pair("Add", (2, 4, 6, 6), 130),
    "Concat": joined(),
    "GlobalAveragePool": single("GlobalAveragePool", "QLinearGlobalAveragePool"),
    "AveragePool": single("AveragePool", "QLinearAveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 1, 1]),
    "AveragePool, padding counted": single(
        "AveragePool", "QLinearAveragePool", kernel_shape=[3, 2], pads=[1, 1, 1, 0], count_include_pad=1
    ),
    "Sigmoid": single("Sigmoid", "QLinearSigmoid"),
    "LeakyRelu": single("LeakyRelu", "QLinearLeakyRelu", alpha=0.1),
    "MaxPool": single("MaxPool", "MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    "HardSwish": single("HardSwish", "HardSigmoid"),
    "Gelu": single("Gelu", "Gelu"),
    "Pad": single("Pad", "Pad", np.array([0, 0, 1, 1, 0, 0, 1, 1])),
    "Resize": single("Resize", "Resize", np.array([], np.float32), np.array([1, 1, 2, 2], np.float32), mode="nearest"),
    "Softmax": single("Softmax", "QLinearSoftmax", axis=1),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in CASES if name != "Softmax"])
def test_codes_are_those_of_onnxruntime(name: str, tmp_path: Any) -> None:
    proto, feeds, named = CASES[name]
    assert optimized_ops(proto, tmp_path)[named] == 1
    found = agreement(proto, feeds)
    assert found.codes > 0
    assert found.differing == 0, found


def test_softmax_is_float_and_so_differs_from_the_integer_kernel() -> None:
    found = agreement(*CASES["Softmax"][:2])
    assert 0 < found.differing <= 0.05 * found.codes
    assert found.step == 1
    assert agreement(*CASES["Softmax"][:2], "onnxruntime-unoptimized").differing == 0


def weights_as(form: str) -> Made:
    """Return a layer of which a weight is written otherwise than as 8-bit codes; all scales are powers of two."""
    g = Graph(21)
    half = form == "float16"
    dtype = np.float16 if half else np.float32
    x = g.input((2, 8), 2**-5, 128, real=dtype)
    scale = (2.0 ** -np.array([4, 5, 6, 5, 4, 7])).astype(dtype)
    weight = codes(6, 8)
    if form == "floats behind Q and DQ":
        grid = g.constant(scale), g.constant(np.zeros(6, np.int8))
        behind = g.op("QuantizeLinear", g.constant(weight * scale[:, None]), *grid, axis=0)
        y = g.op("Gemm", x, g.op("DequantizeLinear", behind, *grid, axis=0), transB=1)
    elif form == "turned":
        y = g.op("MatMul", x, g.op("Transpose", g.weight(weight, scale), perm=[1, 0]))
    elif form == "4 bits":
        y = g.op("Gemm", x, g.weight((weight // 16).astype(ml_dtypes.int4), scale), transB=1)
    elif form == "limited":
        grid = g.constant(scale), g.constant(np.zeros(6, np.int8))
        limited = g.op("Clip", g.constant(weight), g.constant(np.int8(-7)), g.constant(np.int8(7)))
        y = g.op("Gemm", x, g.op("DequantizeLinear", limited, *grid, axis=0), transB=1)
    elif form == "blocks":
        scales = np.repeat(scale[:, None], 2, 1) * np.array([1, 2], dtype)
        y = g.op("Gemm", x, g.weight((weight // 16).astype(ml_dtypes.int4), scales, axis=1, block_size=4), transB=1)
    else:
        y = g.op("Gemm", x, g.weight(weight, scale), g.constant((np.arange(6) / 8).astype(dtype)), transB=1)
    return g.model(g.quantized(y, 2**-2, 120, real=dtype), 2, dtype), {"x0": normal(2, 8).astype(dtype)}, ""


@pytest.mark.parametrize(
    "form", ["floats behind Q and DQ", "turned", "4 bits", "limited", "blocks", "float16"]
)  # fmt: skip
def test_weights_of_other_files(form: str) -> None:
    proto, feeds, _ = weights_as(form)
    found = agreement(proto, feeds, "onnxruntime-unoptimized")
    assert found.codes >= 28
    assert (found.differing, found.outputs) == (0, 0.0)
    codes_name = proto.graph.node[-2].output[0]
    assert len(np.unique(simulator.run(proto, feeds)[codes_name])) > 4


@pytest.mark.parametrize(("groups", "stride", "dilation", "extra"), [(1, 1, 1, 0), (2, 2, 1, 1), (4, 3, 2, 2)])
def test_transposed_convolutions_add_what_torch_adds(groups: int, stride: int, dilation: int, extra: int) -> None:
    x, weight = codes(2, 4, 5, 6).astype(np.int32), codes(4, 8 // groups, 3, 2).astype(np.int32)
    strides, dilations, extras = (stride, stride), (dilation, dilation), (extra, 0)
    expected = F.conv_transpose2d(
        torch.from_numpy(x).double(), torch.from_numpy(weight).double(), None, strides, 1, extras, groups, dilations
    )
    found = transposed(x, weight, strides, (1, 1, 1, 1), dilations, extras, groups)
    assert np.array_equal(found, expected.numpy())


def test_sums_beyond_what_float32_holds_are_exact() -> None:
    x, weight = np.full((1, 600, 1, 1), 255, np.int32), np.full((1, 600, 1, 1), 127, np.int32)
    weight[0, 0] = 126
    assert convolved(x, weight, (1, 1), (0, 0, 0, 0), (1, 1), 1).item() == 255 * (599 * 127 + 126)


def _halves() -> tuple[onnx.ModelProto, dict[str, Any]]:
    g = Graph()
    y = g.op("Conv", g.input((1, 1, 1, 64), 1.0, 0), g.weight(np.full((1, 1, 1, 1), 1, np.int8), np.float32(0.25)))
    return g.model(g.quantized(y, 0.5, 0), 4), {"x0": np.arange(64, dtype=np.float32).reshape(1, 1, 1, 64)}


def test_a_shift_that_rounds_halves_up_differs_from_half_to_even() -> None:
    proto, feeds = _halves()
    codes_name = proto.graph.node[-2].output[0]
    even = simulator.run(proto, feeds)[codes_name].ravel()
    shifted = simulator.run(proto, feeds, numerics=Numerics("half_even", "shift"))[codes_name].ravel()
    up = simulator.run(proto, feeds, numerics=Numerics("half_up", "shift"))[codes_name].ravel()
    x = np.arange(64)
    assert np.array_equal(even, np.rint(x / 2))
    assert np.array_equal(shifted, even)
    assert np.array_equal(up, (x + 1) >> 1)


def test_a_shift_needs_powers_of_two() -> None:
    proto, feeds, _ = CASES["Gemm"]
    with pytest.raises(SimulationError, match="not a power of two"):
        simulator.run(proto, feeds, numerics=Numerics(requantize="shift"))


def test_what_is_missing_is_named() -> None:
    proto, feeds, _ = CASES["Gemm"]
    with pytest.raises(SimulationError, match="x0"):
        simulator.run(proto, {})
    with pytest.raises(SimulationError, match="nowhere"):
        simulator.run(proto, feeds, ["nowhere"])


def test_a_node_that_does_not_fit_its_data_is_named() -> None:
    proto, feeds, _ = single("Reshape", "", np.array([3, 7]))
    with pytest.raises(SimulationError, match="Reshape alone") as error:
        simulator.run(proto, feeds)
    assert "Reshape2" in str(error.value)


def test_sums_of_8_bits_run_over_as_int32_does_and_wider_ones_do_not() -> None:
    for dtype, factor in ((np.uint8, 1), (np.uint16, 257)):
        g = Graph(21)
        x = g.input((1, 70_000), 1.0, 0, dtype)
        y = g.op("MatMul", x, g.weight(np.full((70_000, 1), 127, np.int8), np.float32(1.0)))
        proto = g.model(y, 2)
        found = simulator.run(proto, {"x0": np.full((1, 70_000), 255 * factor, np.float32)}, [y])[y].item()
        exact = 255 * factor * 127 * 70_000
        assert found == np.float32(exact if factor > 1 else exact - 2**32)
