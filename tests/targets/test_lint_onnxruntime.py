"""Each ONNX Runtime rule finds a file that breaks it, is silent on one that keeps it, and the runtime confirms both."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from qatc.targets.lint import RULE_LISTS, lint
from tests.targets.lint_graphs import nodes, pair
from tests.targets.runtime_graphs import NUMBERS, differing, numbered, optimized_ops

IMAGE, MATRIX = "float[1,16,8,8]", "float[16,16]"
W = "[w_dq] wd = DequantizeLinear <axis = 0> (w, ws, wz)"
M = "[m_dq] md = DequantizeLinear <axis = 1> (m, ws, wz)"
B = "[b_dq] bd = DequantizeLinear <axis = 0> (bi, bs, iz)"
X = pair("x", zero="u")
FLOAT_OPS = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "Add", "Mul", "Concat", "AveragePool"}
FLOAT_OPS |= {"GlobalAveragePool", "Sigmoid", "Relu", "Clip", "ReduceMean", "ConvTranspose", "Pad"}
FLOAT_OPS |= {"BatchNormalization", "GlobalMaxPool", "QuickGelu"}


def end(scale: str = "s", zero: str = "u", tensor: str = "h") -> str:
    return f"[y_q] yc = QuantizeLinear ({tensor}, {scale}, {zero}) [y_dq] y = DequantizeLinear (yc, {scale}, {zero})"


CONV = f"{X} {W} {B} [conv] h = Conv (xd, wd, bd)"
POOL = "MaxPool <kernel_shape = [2, 2]>"
TWICE = f"{CONV} {pair('h', zero='u')} k = QuantizeLinear (h, s, u) kd = DequantizeLinear (k, s, u) y = Div (hd, kd)"
PAD_CODES = "c = QuantizeLinear (xd, s, u) [op] p = Pad (c, pads, u) h = DequantizeLinear (p, s, u)"
BY_CHANNEL = "[c_q] c = QuantizeLinear <axis = 1> (x, ws, uz) xd = DequantizeLinear <axis = 1> (c, ws, uz)"
KEPT = f"{X} kd = DequantizeLinear (ku, s, u) [op] h = Mul (xd, kd) {end()}"
AVERAGE = "AveragePool <kernel_shape = [2, 2]> (xd)"


MORE: dict[str, NDArray[np.generic]] = {
    "one4": np.array([3, 1, 1, 1]),
    "b2": np.ones(16, np.float32),
    "ku": np.ones((1, 16, 1, 1), np.uint8),
    "ki": np.ones((1, 16, 1, 1), np.int8),
    "kf": np.ones((1, 16, 1, 1), np.float32),
    "bs_off": np.multiply(NUMBERS["bs"], np.float32(1.005)),
    "two": np.array(2, np.float32),
    "eighth": np.array(0.125, np.float32),
    "odd": np.array(0.113, np.float32),
    "fine": np.array(1 / 256, np.float32),
    "s255": np.array(1 / 255, np.float32),
    "uz": np.zeros(16, np.uint8),
}


class Case(NamedTuple):
    """A rule, the node that it names, a graph that keeps it and one that breaks it."""

    rule: str
    node: str
    good: str
    bad: str
    x: str = IMAGE
    opset: int = 18


STAYS_FLOAT = [
    Case("ORT09", "conv", f"{CONV} {end()}", f"{W} [conv] h = Conv (x, wd) {end()}"),
    Case("ORT09", "conv", f"{CONV} {end()}", f"{X} [conv] y = Conv (xd, wf)"),
    Case("ORT09", "mm", f"{X} {M} [mm] h = MatMul (xd, md) {end()}", f"{X} [mm] h = MatMul (xd, mf) {end()}", MATRIX),
    Case(
        "ORT09",
        "conv",
        f'{X} k = Resize <mode = "nearest"> (xd, , twice) {pair("k", zero="u")} {W} [conv] h = Conv (kd, wd) {end()}',
        f'{X} k = Resize <mode = "nearest"> (xd, , twice) {W} [conv] h = Conv (k, wd) {end()}',
    ),
    Case(
        "ORT09",
        "mm",
        f"{X} {M} {B} [mm] h = Gemm (xd, md, bd) {end()}",
        f"{X} {M} {B} [mm] h = Gemm <alpha = 2.0> (xd, md, bd) {end()}",
        MATRIX,
    ),
    Case("ORT09", "mm", f"{X} {M} {B} [mm] y = Gemm (xd, md, bd)", f"{X} {M} [mm] y = Gemm (xd, md, b)", MATRIX),
    Case("ORT10", "conv", f"{CONV} {end()}", f"{CONV.replace('h =', 'y =')}"),
    Case("ORT10", "conv", f"{CONV} k = Relu (h) {end(tensor='k')}", f"{CONV} k = HardSigmoid (h) {end(tensor='k')}"),
    Case(
        "ORT10",
        "conv",
        f"{CONV} {pair('h', zero='u')} k = Sqrt (hd) y = Div (hd, k)",
        f"{CONV} {pair('h', zero='u')} k = Sqrt (h) y = Div (hd, k)",
    ),
    Case(
        "ORT10",
        "conv",
        TWICE,
        TWICE.replace("(h, s", "(h, t", 2).replace("(h, t", "(h, s", 1),
    ),
    Case("ORT10", "conv", f"{CONV} k = {POOL} (h) {end(tensor='k')}", f"{CONV} k = Expand (h, one4) {end(tensor='k')}"),
    Case("ORT10", "op", f"{X} [op] h = Add (xd, xd) {end()}", f"{X} [op] y = Add (xd, xd)"),
    Case("ORT10", "op", f"{X} [op] h = GlobalAveragePool (xd) {end()}", f"{X} [op] y = GlobalAveragePool (xd)"),
    Case("ORT11", "conv", f"{CONV} k = Relu (h) {end(tensor='k')}", f"{CONV} k = Relu (h) {end('s', 'u128', 'k')}"),
    Case(
        "ORT11",
        "conv",
        f"{CONV} k = Clip (h, zero, six) {end('s6', tensor='k')}",
        f"{CONV} k = Clip (h, zero, six) {end(tensor='k')}",
    ),
    Case(
        "ORT11",
        "mm",
        f"{X} {M} {B} [mm] h = Gemm (xd, md, bd) k = Relu (h) {end(tensor='k')}",
        f"{X} {M} {B} [mm] h = Gemm (xd, md, bd) k = Relu (h) {end('s', 'u128', 'k')}",
        MATRIX,
    ),
    Case("ORT11", "op", f"{X} [op] h = Relu (xd) {end()}", f"{X} [op] h = Clip (xd, zero, six) {end()}"),
    Case("ORT12", "op", f"{X} [op] h = Add (xd, xd) {end()}", f"{X} [op] h = Add (xd, x) {end()}"),
    Case(
        "ORT12",
        "op",
        f"{X} [op] h = Concat <axis = 1> (xd, xd) {end()}",
        f"{X} [op] h = Concat <axis = 1> (xd, x) {end()}",
    ),
    Case("ORT12", "op", KEPT, f"{X} [op] h = Mul (xd, kf) {end()}"),
    Case(
        "ORT12",
        "op",
        KEPT,
        f"{X} kd = DequantizeLinear (ki, s, z) [op] h = Mul (xd, kd) {end()}",
    ),
    Case(
        "ORT13",
        "x_q",
        f"{pair('x')} {W} [conv] h = Conv (xd, wd) {end(zero='z')}",
        f"{pair('x')} {W} [conv] h = Conv (xd, wd) {pair('h')} a = Add (hd, xd) {end(zero='z', tensor='a')}",
    ),
    Case("ORT15", "op", f"{X} [op] h = {POOL} (xd) {end()}", f"{X} [op] h = {POOL} (xd) {end('t')}"),
    Case(
        "ORT16",
        "op",
        f"{X} [op] h = GlobalAveragePool (xd) {end()}",
        f"{X} [op] h = ReduceMean <keepdims = 1> (xd, axes) {end()}",
    ),
    Case("ORT16", "op", f"{X} [op] h = ReduceMax (xd, axes) {end()}", f"{X} [op] h = GlobalMaxPool (xd) {end()}"),
    Case(
        "ORT16",
        "op",
        f"{X} {PAD_CODES} {W} k = Conv (h, wd) {end(tensor='k')}",
        f"{X} [op] h = Pad (xd, pads) {end()}",
    ),
    Case(
        "ORT16",
        "op",
        f"{CONV} {end()}",
        f"{X} wd = DequantizeLinear <axis = 1> (wt, ws, wz) [op] h = ConvTranspose (xd, wd) {end()}",
    ),
    Case("ORT16", "op", f"{CONV} {end()}", f"{X} [op] h = BatchNormalization (xd, b, b, b, b2) {end()}"),
]


def graph(case: Case, body: str) -> onnx.ModelProto:
    y = "float[A,B]" if case.x == MATRIX else "float[A,B,C,D]"
    return numbered(body, case.x, y, case.opset, **MORE)


def name_of(case: Case) -> str:
    return f"{case.rule}-{case.bad[-50:]}"


@pytest.mark.parametrize("case", STAYS_FLOAT, ids=name_of)
def test_what_the_rule_finds_stays_in_float(case: Case, tmp_path: Path) -> None:
    good, bad = graph(case, case.good), graph(case, case.bad)
    assert (nodes(case.rule, good), nodes(case.rule, bad)) == ([], [case.node])
    assert not FLOAT_OPS & set(optimized_ops(good, tmp_path)) - {"Pad"}
    ops = optimized_ops(bad, tmp_path)
    # A pool of other grids is computed in float between a DQ and a Q.
    assert FLOAT_OPS & set(ops) or (case.rule == "ORT15" and ops["QuantizeLinear"] == 2)


OTHER_VALUES = [
    Case("ORT05", "w_dq", f"{CONV} {end()}", f"{CONV} {end()}".replace("axis = 0> (w,", "axis = 1> (w,")),
    Case(
        "ORT05",
        "m_dq",
        f"{X} {M} [mm] h = MatMul (xd, md) {end()}",
        f"{X} {M} [mm] h = MatMul (xd, md) {end()}".replace("axis = 1", "axis = 0"),
        MATRIX,
    ),
    Case(
        "ORT05",
        "m_dq",
        f"{X} {M.replace('1', '0')} [mm] h = Gemm <transB = 1> (xd, md) {end()}",
        f"{X} {M} [mm] h = Gemm <transB = 1> (xd, md) {end()}",
        MATRIX,
    ),
    Case("ORT06", "conv", f"{CONV} {end()}", f"{X} {W} [conv] h = Conv (xd, wd, b) {end()}", "float[4,16,16,16]"),
    Case(
        "ORT06",
        "add",
        f"{X} {M} {B} k = MatMul (xd, md) [add] h = Add (k, bd) {end()}",
        f"{X} {M} k = MatMul (xd, md) [add] h = Add (k, b) {end()}",
        MATRIX,
    ),
    Case("ORT07", "conv", f"{CONV} {end()}", f"{CONV} {end()}".replace("bs,", "bs_off,")),
    Case("ORT08", "conv", f"{CONV} {end()}", f"{X} [conv] h = Conv (xd, wf) {end()}"),
    Case("ORT08", "mm", f"{X} {M} [mm] h = Gemm (xd, md) {end()}", f"{X} [mm] h = Gemm (xd, mf) {end()}", MATRIX),
    Case(
        "ORT18",
        "xd_q",
        f"{pair('x', zero='u')} y = Sqrt (xd)",
        f"{pair('x', 't', 'u')} {pair('xd', zero='u')} y = Exp (xdd)",
    ),
    Case(
        "ORT18",
        "hd_q",
        f"{CONV} {pair('h', 't', 'u')} k = Sigmoid (hd) {pair('hd', zero='u')} y = Sub (k, hdd)",
        f"{CONV} {pair('h', 't', 'u')} {pair('hd', zero='u')} y = Exp (hdd)",
    ),
    *(
        Case(
            "ORT20",
            "op",
            f"{pair('x', zero='u101')} [op] h = {op} {end(scale, 'u100')}",
            f"{pair('x', zero='u100')} [op] h = {op} {end(scale, 'u101')}",
        )
        for op, scale in (("Add (xd, xd)", "two"), ("Mul (xd, xd)", "s"), (AVERAGE, "s"))
    ),
    Case(
        "ORT21",
        "op",
        f"{pair('x', 'eighth', 'u128')} [op] h = Softmax (xd) {end('fine')}",
        f"{pair('x', 'odd', 'u128')} [op] h = Softmax (xd) {end('s255')}",
        "float[1,64,32,32]",
    ),
]


@pytest.mark.parametrize("case", OTHER_VALUES, ids=name_of)
def test_what_the_rule_finds_has_other_values(case: Case, tmp_path: Path) -> None:
    good, bad = graph(case, case.good), graph(case, case.bad)
    assert (nodes(case.rule, good), nodes(case.rule, bad)) == ([], [case.node])
    assert differing(good, tmp_path) == 0
    assert differing(bad, tmp_path) > 0


S8 = pair("x")
DOES_NOT_RUN = [
    Case(
        "ORT14", "op", f"{S8} [op] h = {POOL} (xd) {end(zero='z')}", f"{S8} [op] p = {POOL} (xd) y = Sqrt (p)", opset=21
    ),
    Case(
        "ORT14",
        "op",
        f"{S8} {W} [op] h = Conv (xd, wd) {end(zero='z')}",
        f"{S8} [op] p = Transpose (xd) y = Sqrt (p)",
        opset=21,
    ),
    Case(
        "ORT14",
        "mm",
        f"{S8} {M} [mm] h = MatMul (xd, md) {end(zero='z')}",
        f"{S8} {M} {B} [mm] k = MatMul (xd, md) h = Add (k, bd) {end(zero='z')}",
        "float[2,2,16,16]",
        21,
    ),
    Case(
        "ORT04",
        "c_q",
        f"{CONV} {end()}",
        f"{BY_CHANNEL} {W} h = Conv (xd, wd) {end()}",
    ),
]


@pytest.mark.parametrize("case", DOES_NOT_RUN, ids=name_of)
def test_what_the_rule_finds_does_not_run(case: Case, tmp_path: Path) -> None:
    good, bad = graph(case, case.good), graph(case, case.bad)
    assert nodes(case.rule, good) == []
    assert nodes(case.rule, bad)[0] == case.node
    assert differing(good, tmp_path) == 0
    with pytest.raises(Exception, match="FAIL"):
        differing(bad, tmp_path)


def test_ort14_opset_19_loads(tmp_path: Path) -> None:
    model = graph(DOES_NOT_RUN[0], DOES_NOT_RUN[0].bad)
    model.opset_import[0].version = 19
    assert nodes("ORT14", model) == []
    assert optimized_ops(model, tmp_path)


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_ort03_codes_of_16_bits_stay_in_float(kind: type[np.generic], tmp_path: Path) -> None:
    body = f"{pair('x', zero='wide')} {W} [conv] h = Conv (xd, wd) {end(zero='wide')}"
    model = numbered(body, IMAGE, "float[A,B,C,D]", 21, wide=np.zeros((), kind))
    assert nodes("ORT03", model) == ["x_q", "x_dq", "y_q", "y_dq"]
    assert optimized_ops(model, tmp_path)["Conv"] == 1


def test_ort02_codes_need_their_opset() -> None:
    body = f"{pair('x', zero='wide')} y = Sqrt (xd)"
    wide = np.zeros((), np.uint16)
    assert nodes("ORT02", numbered(body, IMAGE, IMAGE, 18, wide=wide)) == ["x_q", "x_dq"]
    assert nodes("ORT02", numbered(body, IMAGE, IMAGE, 21, wide=wide)) == []
    extension = body.replace("Quantize", "com.microsoft.Quantize").replace("Dequantize", "com.microsoft.Dequantize")
    assert nodes("ORT02", numbered(extension, IMAGE, IMAGE, 18, wide=wide)) == []


def test_ort01_scales_are_positive() -> None:
    bad = np.array(-0.5, np.float32)
    assert nodes("ORT01", numbered(f"{pair('x', 'bad', 'u')} y = Sqrt (xd)", IMAGE, IMAGE, bad=bad)) == ["x_q", "x_dq"]
    computed = f"r = ReduceMax <keepdims = 0> (x) {pair('x', 'r', 'u')} y = Sqrt (xd)"
    assert nodes("ORT01", numbered(computed, IMAGE, IMAGE)) == []  # the runtime computes with it


def test_ort07_a_bias_has_no_zero_point() -> None:
    model = numbered(f"{CONV} {end()}", IMAGE, IMAGE, iz=np.full(16, 3, np.int32))
    assert nodes("ORT07", model) == ["conv"]


@pytest.mark.parametrize("op", ["HardSwish", "Tanh", "Elu", "Softplus", "Neg"])
def test_ort17_notes_what_has_no_integer_kernel(op: str, tmp_path: Path) -> None:
    model = numbered(f"{X} [op] h = {op} (xd) {end()}", IMAGE, IMAGE)
    assert nodes("ORT17", model) == ["op"]
    assert optimized_ops(model, tmp_path)["QuantizeLinear"] == 2
    assert nodes("ORT17", numbered(f"{X} [op] y = {op} (xd)", IMAGE, IMAGE)) == []


def test_ort19_pairs_lead_somewhere() -> None:
    assert nodes("ORT19", numbered("[q] c = QuantizeLinear (x, s, u) y = Relu (x)", IMAGE, IMAGE)) == ["q"]
    assert nodes("ORT19", numbered(f"{X} {pair('xd', zero='u')} y = Relu (xdd)", IMAGE, IMAGE)) == ["xd_q"]
    assert nodes("ORT19", numbered("[q] c = QuantizeLinear (x, s, u) y = Cast <to = 1> (c)", IMAGE, IMAGE)) == ["q"]
    on_codes = "[q] c = QuantizeLinear (x, s, u) k = Clip (c, u, u100) y = DequantizeLinear (k, s, u)"
    assert nodes("ORT19", numbered(on_codes, IMAGE, IMAGE)) == []


@pytest.mark.parametrize(("greatest", "expected"), [(127, ["conv"]), (64, [])])
def test_ort22_notes_weights_that_saturate(greatest: int, expected: list[str]) -> None:
    weights = np.full((16, 16, 1, 1), greatest, np.int8)
    assert nodes("ORT22", numbered(f"{CONV} {end()}", IMAGE, IMAGE, w=weights)) == expected


def test_a_whole_clean_graph_has_notes_alone() -> None:
    body = f"""{CONV} r = Relu (h) {pair("r", zero="u")} p = {POOL} (rd) c2 = Conv (p, wd) {pair("c2", zero="u128")}
        g = Sigmoid (c2d) {pair("g", zero="u")} k = Mul (c2d, gd) {end(tensor="k")}"""
    findings = lint(numbered(body, IMAGE, IMAGE), RULE_LISTS["onnxruntime"])
    assert {finding.rule for finding in findings} == {"ORT22"}


def test_four_bit_weights_stay_in_float(tmp_path: Path) -> None:
    model = numbered(f"{X} [w_dq] wd = DequantizeLinear (w4, s) [conv] h = Conv (xd, wd) {end()}", IMAGE, IMAGE, 21)
    model.graph.initializer.append(helper.make_tensor("w4", TensorProto.INT4, [16, 16, 1, 1], np.ones(256)))
    assert nodes("ORT03", model) == ["w_dq"]
    assert optimized_ops(model, tmp_path)["Conv"] == 1


def test_ort23_half_precision_stays_in_float(tmp_path: Path) -> None:
    half = {name: NUMBERS[name].astype(np.float16) for name in ("ws", "bs")} | {"s": np.array(0.5, np.float16)}
    model = numbered(f"{CONV} {end()}", IMAGE.replace("float", "float16"), "float16[A,B,C,D]", 19, **half)
    assert nodes("ORT23", model) == ["x_q"]
    assert optimized_ops(model, tmp_path)["Conv"] == 1
    assert nodes("ORT23", numbered(f"{CONV} {end()}", IMAGE, IMAGE)) == []
