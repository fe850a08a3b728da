"""Each OpenVINO rule finds a file that breaks it, is silent on one that keeps it, and the plugin confirms both."""

from typing import NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from qatc.targets.lint import RULE_LISTS, lint
from tests.targets.lint_graphs import nodes, pair
from tests.targets.runtime_graphs import numbered, openvino_run

IMAGE, MATRIX = "float[1,16,8,8]", "float[16,16]"
W = "[w_dq] wd = DequantizeLinear <axis = 0> (w, ws, wz)"
M = "[m_dq] md = DequantizeLinear <axis = 1> (m, ws, wz)"
X = pair("x", zero="u")
_random = np.random.default_rng(2)
MORE: dict[str, NDArray[np.generic]] = {
    "three": np.full(16, 3, np.int8),
    "low": np.array(-7, np.int8),
    "high": np.array(7, np.int8),
    "w3": _random.integers(-127, 128, (16, 16, 3, 3)).astype(np.int8),
    "w3s": (_random.uniform(0.6, 1, 16) * 0.002).astype(np.float32),
    "sx": np.array(0.11, np.float32),
    "sb": np.array(0.07, np.float32),
    "two": np.array(2, np.float32),
    "powers": np.full(16, 2.0**-5, np.float32),
}


def end(scale: str = "s", zero: str = "u", tensor: str = "h") -> str:
    return f"[y_q] yc = QuantizeLinear ({tensor}, {scale}, {zero}) [y_dq] y = DequantizeLinear (yc, {scale}, {zero})"


CONV = f"{X} {W} [conv] h = Conv (xd, wd)"
UP = "[w_dq] wd = DequantizeLinear <axis = 1> (wt, ws, wz)"
CLIPPED = "c = Clip (w, low, high) [w_dq] wd = DequantizeLinear <axis = 0> (c, ws, wz)"
CLIPPED_MATRIX = "c = Clip (m, low, high) [m_dq] md = DequantizeLinear <axis = 1> (c, ws, wz)"


class Case(NamedTuple):
    """A rule, the node that it names, a graph that keeps it and one that breaks it, the layer that tells them apart."""

    rule: str
    node: str
    layer: str
    good: str
    bad: str
    x: str = IMAGE


def graph(case: Case, body: str) -> onnx.ModelProto:
    return numbered(body, case.x, "float[A,B]" if case.x == MATRIX else "float[A,B,C,D]", 18, **MORE)


def up(zero: str) -> str:
    return f"{pair('x', zero=zero)} {UP} [op] h = ConvTranspose (xd, wd) {end()}"


def product(second: str, first: str = "z") -> str:
    return f"{pair('x', zero=first)} k = Relu (x) {pair('k', zero=second)} [op] h = MatMul (xd, kd) {end()}"


def padded(zero: str) -> str:
    return f"{pair('x', zero=zero)} [op] h = Pad (xd, pads) {end()}"


STAYS_FLOAT = [
    Case("OV07", "w_dq", "Convolution", f"{CONV} {end()}", f"{CONV} {end()}".replace("wz)", "three)")),
    Case("OV09", "op", "Deconvolution", up("z"), up("u128")),
    Case("OV09", "op", "Deconvolution", up("u"), up("u101")),
    Case("OV09", "op", "MatMul", product("z"), product("u"), MATRIX),
    Case("OV09", "op", "MatMul", product("u128"), product("z", "u128"), MATRIX),
    Case("OV09", "op", "Pad", padded("u"), padded("u128")),
    Case("OV10", "w_dq", "Convolution", f"{CONV} {end()}", f"{CONV} {end()}".replace(W, CLIPPED)),
    Case("OV11", "conv", "Convolution", f"{CONV} {end()}", f"{X} [conv] h = Conv (xd, wf) {end()}"),
    Case("OV11", "conv", "Convolution", f"{CONV} {end()}", f"{W} [conv] h = Conv (x, wd) {end()}"),
    Case(
        "OV17",
        "op",
        "Interpolate",
        f'{X} [op] h = Resize <mode = "nearest"> (xd, , twice) {end()}',
        f'{X} [op] h = Resize <mode = "linear"> (xd, , twice) {end()}',
    ),
]


@pytest.mark.parametrize("case", STAYS_FLOAT, ids=lambda case: f"{case.rule}-{case.layer}")
def test_what_the_rule_finds_stays_in_float(case: Case) -> None:
    good, bad = graph(case, case.good), graph(case, case.bad)
    assert (nodes(case.rule, good), nodes(case.rule, bad)) == ([], [case.node])
    assert openvino_run(good)[0][case.layer] in {"i8", "u8"}
    assert openvino_run(bad)[0][case.layer] == "f32"


def test_ov10_matrix_products_may_clip_their_codes() -> None:
    model = numbered(f"{X} {CLIPPED_MATRIX} h = MatMul (xd, md) {end()}", MATRIX, MATRIX, 18, **MORE)
    assert nodes("OV10", model) == []
    assert openvino_run(model)[0]["FullyConnected"] == "u8"


def residual(between: str = "", operands: str = "kd, ad", sum_of: str = "Add") -> str:
    """Two convolutions, whose sum with the first one's input may be fused into the second."""
    c, result = "Conv <pads = [1, 1, 1, 1]>", "k0" if between else "k"
    return f"""
        {pair("x", "sx")} wd = DequantizeLinear <axis = 0> (w3, w3s, wz) a0 = {c} (xd, wd) a = Relu (a0)
        {pair("a", "sb", "u")} b0 = {c} (ad, wd) b1 = Relu (b0) {pair("b1", "sb", "u")}
        [conv] {result} = {c} (b1d, wd) {between} {pair("k", "sx", "u128")}
        [add] h = {sum_of} ({operands}) {end("sx")}
    """


def dropped(body: str) -> float:
    """Share of values that differ where the skip's grid is kept."""
    return openvino_run(numbered(body, IMAGE, "float[A,B,C,D]", 18, **MORE))[1]


@pytest.mark.parametrize(("operands", "sum_of"), [("kd, ad", "Add"), ("ad, kd", "Add"), ("kd, ad", "Sub")])
def test_ov08_a_pair_inside_a_fused_sum_is_dropped(operands: str, sum_of: str) -> None:
    body = residual(operands=operands, sum_of=sum_of)
    assert nodes("OV08", numbered(body, IMAGE, IMAGE, 18, **MORE)) == ["add"]
    assert dropped(body) > 0.02


@pytest.mark.parametrize(
    "body",
    [
        residual("k = Relu (k0)"),
        residual(operands="k, ad"),
        residual(sum_of="Mul"),
        residual(operands="kd, b1d"),
    ],
    ids=["an activation between", "the skip alone", "a product", "the convolution's own input"],
)
def test_ov08_is_silent_where_the_pair_is_kept(body: str) -> None:
    assert nodes("OV08", numbered(body, IMAGE, IMAGE, 18, **MORE)) == []
    assert dropped(body) < 0.005


@pytest.mark.parametrize(
    ("op", "x", "scale"),
    [
        ("Add (xd, kd)", IMAGE, "two"),
        ("AveragePool <kernel_shape = [2, 2]> (xd)", IMAGE, "s"),
        ("Concat <axis = 1> (xd, xd)", IMAGE, "one"),
        ("Conv (xd, wd)", IMAGE, "one"),
        ("Gemm (xd, md)", MATRIX, "one"),
    ],
)
def test_ov14_odd_zero_points_break_ties(op: str, x: str, scale: str) -> None:
    k = f"k = Relu (x) {pair('k', zero='u100')}"
    body = f"{pair('x', zero='u100')} {k} {W} {M} [op] h = {op} {end(scale, 'u101')}"
    powers = {**MORE, "ws": MORE["powers"]}
    for zero, found in (("u101", ["op"]), ("u100", [])):
        model = numbered(body.replace("u101", zero), x, "float[A,B]" if x == MATRIX else "float[A,B,C,D]", 18, **powers)
        assert nodes("OV14", model) == found
        assert (openvino_run(model)[1] > 0) == bool(found)


@pytest.mark.parametrize("behind", ["h = Conv (k, wd)", "h = Add (k, k)", "h = Mul (k, k)"])
def test_ov16_a_pool_without_a_q_rounds_to_its_input(behind: str) -> None:
    pool = f"{X} {W} [op] k = AveragePool <kernel_shape = [2, 2]> (xd)"
    model = numbered(f"{pool} {behind} {end()}", IMAGE, "float[A,B,C,D]", 18, **MORE)
    assert nodes("OV16", model) == ["op"]
    assert openvino_run(model)[1] > 0.1
    kept = f"{pool} {pair('k', 't', 'u')} {behind.replace('k', 'kd')} {end()}"
    assert nodes("OV16", numbered(kept, IMAGE, "float[A,B,C,D]", 18, **MORE)) == []
    floats = numbered(f"{pool} y = Sqrt (k)", IMAGE, "float[A,B,C,D]", 18, **MORE)
    assert nodes("OV16", floats) == []
    assert openvino_run(floats)[1] == 0


@pytest.mark.parametrize(("mode", "precision"), [("nearest", "u8"), ("linear", "f32")])
def test_ov11_nearest_upsampling_carries_codes_to_a_product(mode: str, precision: str) -> None:
    body = f'{X} {W} k = Resize <mode = "{mode}"> (xd, , twice) [conv] h = Conv (k, wd) {end()}'
    model = numbered(body, IMAGE, "float[A,B,C,D]", 18, **MORE)
    assert nodes("OV11", model) == ([] if mode == "nearest" else ["conv"])
    assert openvino_run(model)[0]["Convolution"] == precision


def test_ov15_counted_padding_is_the_code_zero() -> None:
    for zero, found in (("u128", ["op"]), ("u", [])):
        op = "AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1> (xd)"
        model = numbered(f"{pair('x', zero=zero)} [op] h = {op} {end()}", IMAGE, "float[A,B,C,D]", 18, **MORE)
        assert nodes("OV15", model) == found
        assert (openvino_run(model)[1] > 0.05) == bool(found)
        uncounted = model.SerializeToString().replace(b"count_include_pad", b"count_include_pax")
        assert nodes("OV15", onnx.ModelProto.FromString(uncounted)) == []


@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_ov03_codes_of_16_bits_are_discarded(kind: type[np.generic]) -> None:
    body = f"{pair('x', zero='wide')} {W} [conv] h = Conv (xd, wd) {end(zero='wide')}"
    model = numbered(body, IMAGE, "float[A,B,C,D]", 21, wide=np.zeros((), kind))
    assert nodes("OV03", model) == ["x_q", "x_dq", "y_q", "y_dq"]
    precisions, share = openvino_run(model)
    assert precisions["Convolution"] == "f32"
    assert share > 0.5  # neither rounded nor limited


def test_ov04_weights_of_four_bits_stay_in_float() -> None:
    model = numbered(f"{X} [w_dq] wd = DequantizeLinear (w4, s) [conv] h = Conv (xd, wd) {end()}", IMAGE, IMAGE, 21)
    model.graph.initializer.append(helper.make_tensor("w4", TensorProto.INT4, [16, 16, 1, 1], np.ones(256)))
    assert nodes("OV04", model) == ["w_dq"]
    assert openvino_run(model)[0]["Convolution"] == "f32"


def test_ov05_a_scale_per_channel_of_an_activation() -> None:
    by_channel = "[x_q] c = QuantizeLinear <axis = 1> (x, ws, uz) [x_dq] xd = DequantizeLinear <axis = 1> (c, ws, uz)"
    model = numbered(f"{by_channel} {W} h = Conv (xd, wd) {end()}", IMAGE, IMAGE, uz=np.zeros(16, np.uint8))
    assert nodes("OV05", model) == ["x_q", "x_dq"]
    assert openvino_run(model)[0]["Convolution"] == "f32"


def test_the_rules_on_single_nodes() -> None:
    bad = np.array(np.nan, np.float32)
    assert nodes("OV01", numbered(f"{pair('x', 'bad', 'u')} y = Sqrt (xd)", IMAGE, IMAGE, bad=bad)) == ["x_q", "x_dq"]
    wide = np.zeros((), np.uint16)
    assert nodes("OV02", numbered(f"{pair('x', zero='k')} y = Sqrt (xd)", IMAGE, IMAGE, 18, k=wide)) == ["x_q", "x_dq"]
    assert nodes("OV06", numbered(f"{CONV} {end()}".replace("axis = 0", "axis = 1"), IMAGE, IMAGE)) == ["w_dq"]
    assert nodes("OV13", numbered("[q] c = QuantizeLinear (x, s, u) y = Relu (x)", IMAGE, IMAGE)) == ["q"]
    joined = f"{X} k = Relu (x) {pair('k', 't', 'u')} [op] h = Concat <axis = 1> (xd, kd) {end()}"
    assert nodes("OV12", numbered(joined, IMAGE, "float[A,B,C,D]")) == ["op"]
    assert nodes("OV12", numbered(joined.replace("t, u", "s, u"), IMAGE, "float[A,B,C,D]")) == []


def test_a_whole_clean_graph_has_no_findings() -> None:
    body = residual(operands="k, ad")
    unread = body.replace(pair("k", "sx", "u128"), "")
    assert lint(numbered(unread, IMAGE, IMAGE, 18, **MORE), RULE_LISTS["openvino"]) == ()
