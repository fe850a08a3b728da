"""Each TIDL rule finds a file that breaks it and is silent on one that keeps it, for both generations."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from qatc.targets.lint import RULE_LISTS, lint
from tests.targets.lint_graphs import IMAGE, M, W, X, nodes, pair, parse

MATRIX = "float[16,16]"
OPEN = "float[A,B,C,D]"
CONSTANTS: dict[str, NDArray[np.generic]] = {
    "u": np.array(0, np.uint8),
    "u3": np.array(3, np.uint8),
    "bs": np.full(16, 0.5 * 0.125, np.float32),
    "up": np.ones((16, 16, 2, 2), np.int8),
    "odd": np.array(0.3, np.float32),
}
CONV = f"{X} {W} [conv] h = Conv (xd, wd)"
END = "[y_q] yc = QuantizeLinear (h, s, z) [y_dq] y = DequantizeLinear (yc, s, z)"


def graph(body: str, x: str = IMAGE, y: str = OPEN, opset: int = 18, **more: NDArray[np.generic]) -> onnx.ModelProto:
    return parse(body, x, y, opset, **(CONSTANTS | more))


def asymmetric(op: str) -> str:
    """A tensor with a zero point that a convolution makes, which this op reads too."""
    return f"{CONV} {pair('h', zero='u3')} [op] k = {op} {END.replace('(h,', '(k,')}"


@pytest.mark.parametrize(
    ("op", "x"),
    [
        ("Conv (hd, wd)", IMAGE),
        ("Add (hd, hd)", IMAGE),
        ("Concat <axis = 1> (hd, hd)", IMAGE),
        ("Softmax (hd)", IMAGE),
        ("Transpose (hd)", IMAGE),
        ("Relu (hd)", IMAGE),
        ("Mul (hd, hd)", IMAGE),
        ("MaxPool <kernel_shape = [2, 2]> (hd)", IMAGE),
        ("Sigmoid (hd)", IMAGE),
        ("GlobalAveragePool (hd)", IMAGE),
        ("MatMul (hd, hd)", IMAGE),
    ],
)
def test_tidl13_zero_points_only_where_layers_have_them(op: str, x: str) -> None:
    allowed = op.split()[0] in {"Conv", "Add", "Concat", "Softmax", "Transpose"}
    model = graph(asymmetric(op), x)
    assert nodes("TIDL13", model) == ([] if allowed else ["h_q"])
    assert nodes("TIDL17", model) == ["h_q"]
    assert nodes("TIDL13", graph(asymmetric(op).replace("u3", "z"), x)) == []


def test_tidl13_follows_a_zero_point_through_reshapes() -> None:
    through = f"{CONV} {pair('h', zero='u3')} t = Transpose (hd) k = {{0}} {END.replace('(h,', '(k,')}"
    assert nodes("TIDL13", graph(through.format("Conv (t, wd)"))) == []
    assert nodes("TIDL13", graph(through.format("Sigmoid (t)"))) == ["h_q"]


def test_tidl13_a_relu_belongs_to_the_layer_before() -> None:
    fused = f"{CONV} r = Relu (h) {pair('r', zero='u3')} k = Conv (rd, wd) {END.replace('(h,', '(k,')}"
    assert nodes("TIDL13", graph(fused)) == []
    alone = f"r = Relu (x) {pair('r', zero='u3')} {W} h = Conv (rd, wd) {END}"
    assert nodes("TIDL13", graph(alone)) == ["r_q"]


def test_tidl06_inputs_are_symmetric() -> None:
    assert nodes("TIDL06", graph(f"{pair('x', zero='u3')} {W} h = Conv (xd, wd) {END}")) == ["x_q"]
    assert nodes("TIDL06", graph(f"{CONV} {END}")) == []
    assert nodes("TIDL06", graph(f"k = Clip (x, s, t) {pair('k', zero='u3')} y = Identity (kd)")) == ["k_q"]


def test_tidl14_channels_have_scales_in_conv_and_inner_product_alone() -> None:
    up = "[w_q] wd = DequantizeLinear <axis = 1> (up, {0}) [op] h = ConvTranspose (xd, wd)"
    assert nodes("TIDL14", graph(f"{X} {up.format('ws, wz')} {END}")) == ["w_q"]
    assert nodes("TIDL14", graph(f"{X} {up.format('s, z')} {END}")) == []
    for kept in (f"{CONV} {END}", f"{X} {M} h = Gemm (xd, md) {END}", f"{X} {M} h = MatMul (xd, md) {END}"):
        assert nodes("TIDL14", graph(kept, IMAGE if "Conv" in kept else MATRIX)) == []
        assert nodes("TIDL16", graph(kept, IMAGE if "Conv" in kept else MATRIX)) != []


@pytest.mark.parametrize(
    "end", ["r = Relu (hd)", "r = BatchNormalization (hd, b, b, b, b)", "r = Clip (hd)"], ids=["ReLU", "norm", "clip"]
)
def test_tidl09_no_pair_in_front_of_a_relu_or_norm(end: str) -> None:
    behind = f"{pair('r')} {END.replace('(h,', '(rd,').replace('y_', 'e_')}"
    assert nodes("TIDL09", graph(f"{CONV} {pair('h')} {end} {behind}")) == ["h_q"]
    assert nodes("TIDL09", graph(f"{CONV} {end.replace('hd', 'h')} {behind}")) == []


def test_tidl10_no_pair_inside_a_pattern() -> None:
    silu = f"{CONV} {pair('h')} g = Sigmoid (hd) {pair('g')} k = Mul (hd, {{0}}) {END.replace('(h,', '(k,')}"
    assert nodes("TIDL10", graph(silu.format("gd"))) == ["g_q"]
    assert nodes("TIDL10", graph(silu.format("g").replace(pair("g"), ""))) == []


def test_tidl11_every_layer_has_a_grid_behind() -> None:
    raw = f"{CONV} g = Sigmoid (h) {pair('g')} k = Conv (gd, wd) {END.replace('(h,', '(k,')}"
    assert nodes("TIDL11", graph(raw)) == ["conv"]
    kept = f"{CONV} {pair('h')} g = Sigmoid (hd) {pair('g')} k = Conv (gd, wd) {END.replace('(h,', '(k,')}"
    assert nodes("TIDL11", graph(kept)) == []
    silu = f"{CONV} g = Sigmoid (h) k = Mul (h, g) {END.replace('(h,', '(k,')}"
    assert nodes("TIDL11", graph(silu)) == []
    skip_only = f"{CONV} [add] k = Add (h, xd) {END.replace('(h,', '(k,')}"
    assert nodes("TIDL11", graph(skip_only)) == ["conv"]
    assert nodes("TIDL11", graph(f"{CONV} t = Transpose (h) {END.replace('(h,', '(t,')}")) == []


def test_the_rules_on_single_nodes() -> None:
    bad = np.array(0, np.float32)
    assert nodes("TIDL01", graph(f"{pair('x', 'bad')} y = Relu (xd)", bad=bad)) == ["x_q", "x_dq"]
    wide = np.zeros((), np.int16)
    assert nodes("TIDL02", graph(f"{pair('x', zero='k')} y = Relu (xd)", opset=21, k=wide)) == ["x_q", "x_dq"]
    channels = "[x_q] c = QuantizeLinear <axis = 1> (x, ws, wz) [x_dq] y = DequantizeLinear <axis = 1> (c, ws, wz)"
    assert nodes("TIDL03", graph(channels)) == ["x_q", "x_dq"]
    assert nodes("TIDL04", graph(f"{CONV} {END}".replace("axis = 0", "axis = 1"))) == ["w_q"]
    assert nodes("TIDL05", graph(f"{CONV} {END}", wz=np.full(16, 2, np.int8))) == ["w_q"]
    bias = f"{X} {W} bd = DequantizeLinear <axis = 0> (bi, {{0}}, iz) [conv] h = Conv (xd, wd, bd) {END}"
    assert nodes("TIDL07", graph(bias.format("ws"))) == ["conv"]
    assert nodes("TIDL07", graph(bias.format("bs"))) == []
    assert nodes("TIDL08", graph(f"{X} [conv] h = Conv (xd, wf) {END}")) == ["conv"]
    assert nodes("TIDL12", graph("[q] c = QuantizeLinear (x, s, z) y = Relu (x)")) == ["q"]


def test_tidl15_scales_of_tda4vm_are_powers_of_two() -> None:
    assert nodes("TIDL15", graph(f"{pair('x', 'odd')} y = Relu (xd)")) == ["x_q", "x_dq"]
    assert nodes("TIDL15", graph(f"{CONV} {END}")) == []


def test_the_generations_have_their_own_lists() -> None:
    symmetric = f"{X} wd = DequantizeLinear (w, s, z) c = Conv (xd, wd) h = Relu (c) {END}"
    assert lint(graph(symmetric), RULE_LISTS["tidl-tda4vm"]) == ()
    by_channel = f"{CONV} {pair('h', zero='u3')} k = Conv (hd, wd) {END.replace('(h,', '(k,')}"
    assert lint(graph(by_channel), RULE_LISTS["tidl"]) == ()
    found = {finding.rule for finding in lint(graph(by_channel), RULE_LISTS["tidl-tda4vm"])}
    assert found == {"TIDL16", "TIDL17"}
    assert set(RULE_LISTS["tidl"]) ^ set(RULE_LISTS["tidl-tda4vm"]) == {f"TIDL{n}" for n in range(13, 18)}
