"""Each QNN rule finds a file that breaks it and is silent on one that keeps it."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from qatc.targets.lint import RULE_LISTS, lint
from tests.targets.lint_graphs import IMAGE, M, W, nodes, pair, parse

OPEN, MATRIX = "float[A,B,C,D]", "float[16,16]"
CONSTANTS: dict[str, NDArray[np.generic]] = {
    "u": np.array(7, np.uint8),
    "bs": np.full(16, 0.5 * 0.125, np.float32),
    "wide": np.zeros((), np.uint16),
    "middle": np.array(32768, np.uint16),
    "sigmoid": np.array(1 / 65536, np.float32),
    "tanh": np.array(1 / 32768, np.float32),
    "slopes": np.ones((16, 1, 1), np.int8),
}
X = pair("x", zero="u")
CONV = f"{X} {W} [conv] h = Conv (xd, wd)"


def end(tensor: str = "h", scale: str = "s", zero: str = "u") -> str:
    return f"[y_q] yc = QuantizeLinear ({tensor}, {scale}, {zero}) [y_dq] y = DequantizeLinear (yc, {scale}, {zero})"


def graph(body: str, x: str = IMAGE, y: str = OPEN, opset: int = 18, **more: NDArray[np.generic]) -> onnx.ModelProto:
    return parse(body, x, y, opset, **(CONSTANTS | more))


GROUPS = [
    ("Conv (xd, wd)", "Relu (0)"),
    ("Conv (xd, wd)", "PRelu (0, sd)"),
    ("Conv (xd, wd)", "LeakyRelu (0)"),
    ("Conv (xd, wd)", "Clip (0)"),
    ("Conv (xd, wd)", "BatchNormalization (0, b, b, b, b)"),
    ("Add (xd, xd)", "Relu (0)"),
]
SLOPES = "sd = DequantizeLinear <axis = 0> (slopes, ws, wz)"


@pytest.mark.parametrize(("first", "second"), GROUPS)
def test_qnn11_no_pair_inside_a_supergroup(first: str, second: str) -> None:
    body = f"{X} {W} {SLOPES} [op] h = {first} {{0}} k = {second.replace('0', '{1}')} {end('k')}"
    assert nodes("QNN11", graph(body.format(pair("h", zero="u"), "hd"))) == ["h_q"]
    assert nodes("QNN11", graph(body.format("", "h"))) == []
    assert nodes("QNN12", graph(body.format("", "h"))) == []


@pytest.mark.parametrize("op", ["Sigmoid (0)", "MaxPool <kernel_shape = [2, 2]> (0)", "Softmax (0)", "Mul (0, 0)"])
def test_qnn12_every_result_outside_a_supergroup_has_a_grid(op: str) -> None:
    body = f"{CONV} {{0}} k = {op.replace('0', '{1}')} {end('k')}"
    moves = op.startswith("MaxPool")
    assert nodes("QNN12", graph(body.format("", "h"))) == ([] if moves else ["conv"])
    assert nodes("QNN12", graph(body.format(pair("h", zero="u"), "hd"))) == []


def test_qnn12_what_leaves_the_network_has_a_grid() -> None:
    assert nodes("QNN12", graph(CONV.replace("h =", "y ="))) == ["conv"]
    assert nodes("QNN12", graph(f"{CONV} y = Transpose (h)")) == ["conv"]
    assert nodes("QNN12", graph(f"{CONV} {end()}")) == []


def test_qnn12_a_product_and_its_bias_are_one() -> None:
    assert nodes("QNN12", graph(f"{X} {M} k = MatMul (xd, md) h = Add (k, b) {end()}", MATRIX, "float[A,B]")) == []


@pytest.mark.parametrize(
    ("op", "scale", "zero"), [("Sigmoid", "sigmoid", "wide"), ("Tanh", "tanh", "middle")], ids=["Sigmoid", "Tanh"]
)
def test_qnn10_the_device_fixes_grids_of_16_bits(op: str, scale: str, zero: str) -> None:
    body = f"{pair('x', zero='wide')} [op] h = {op} (xd) {{0}}"
    assert nodes("QNN10", graph(body.format(end("h", scale, zero)), opset=21)) == []
    assert nodes("QNN10", graph(body.format(end("h", "s", zero)), opset=21)) == ["y_q"]
    other = "middle" if zero == "wide" else "wide"
    assert nodes("QNN10", graph(body.format(end("h", scale, other)), opset=21)) == ["y_q"]
    assert nodes("QNN10", graph(body.format(end()).replace("wide", "u"))) == []


def test_qnn04_wide_and_narrow_codes_before_opset_21() -> None:
    body = f"{pair('x', zero='wide')} y = Relu (xd)"
    assert nodes("QNN04", graph(body)) == ["x_q", "x_dq"]
    assert nodes("QNN04", graph(body, opset=21)) == []
    extension = body.replace("QuantizeLinear", "com.microsoft.QuantizeLinear").replace("Decom.", "De")
    extension = body.replace("= Quantize", "= com.microsoft.Quantize").replace(
        "= Dequantize", "= com.microsoft.Dequantize"
    )
    assert nodes("QNN04", graph(extension)) == []
    four = graph(f"{X} [w_q] wd = DequantizeLinear (w4, s) h = Conv (xd, wd) {end()}", opset=18)
    four.graph.initializer.append(helper.make_tensor("w4", TensorProto.INT4, [16, 16, 1, 1], np.ones(256)))
    assert nodes("QNN04", four) == ["w_q"]
    assert nodes("QNN03", four) == []


def test_qnn07_channels_have_scales_on_some_weights_alone() -> None:
    constant = "[k_q] kd = DequantizeLinear <axis = 0> (slopes, ws, wz)"
    assert nodes("QNN07", graph(f"{X} {constant} h = Mul (xd, kd) {end()}")) == ["k_q"]
    assert nodes("QNN07", graph(f"{X} {constant} h = PRelu (xd, kd) {end()}")) == []
    assert nodes("QNN07", graph(f"{CONV} {end()}")) == []


def test_qnn09_what_the_network_reads_has_a_grid() -> None:
    assert nodes("QNN09", graph(f"{X} [op] h = Add (xd, x) {end()}")) == ["op"]
    assert nodes("QNN09", graph(f"{CONV} {end()}")) == []
    assert nodes("QNN09", graph("y = Relu (x)")) == []
    assert nodes("QNN09", graph(f"k = Clip (x, s, t) {pair('k', zero='u')} y = Identity (kd)")) == []


def test_qnn14_data_movement_keeps_its_grid() -> None:
    body = f"{X} [op] h = MaxPool <kernel_shape = [1, 1]> (xd) {{0}}"
    assert nodes("QNN14", graph(body.format(end("h", "t")))) == ["op"]
    assert nodes("QNN14", graph(body.format(end()))) == []


def test_the_rules_on_single_nodes() -> None:
    bad = np.array(np.inf, np.float32)
    assert nodes("QNN01", graph(f"{pair('x', 'bad')} y = Relu (xd)", bad=bad)) == ["x_q", "x_dq"]
    float8 = graph(f"{pair('x', zero='f8')} y = Relu (xd)", opset=19)
    float8.graph.initializer.append(helper.make_tensor("f8", TensorProto.FLOAT8E4M3FN, [], [0.0]))
    assert nodes("QNN02", float8) == ["x_q", "x_dq"]
    channels = "[x_q] c = QuantizeLinear <axis = 1> (x, ws, wz) [x_dq] y = DequantizeLinear <axis = 1> (c, ws, wz)"
    assert nodes("QNN05", graph(channels)) == ["x_q", "x_dq"]
    assert nodes("QNN06", graph(f"{CONV} {end()}".replace("axis = 0", "axis = 1"))) == ["w_q"]
    assert nodes("QNN08", graph(f"{CONV} {end()}", wz=np.full(16, 2, np.int8))) == ["w_q"]
    bias = f"{X} {W} bd = DequantizeLinear <axis = 0> (bi, {{0}}, iz) [conv] h = Conv (xd, wd, bd) {end()}"
    assert nodes("QNN15", graph(bias.format("ws"))) == ["conv"]
    assert nodes("QNN15", graph(bias.format("bs"))) == []
    assert nodes("QNN13", graph(f"{X} [conv] h = Conv (xd, wf) {end()}")) == ["conv"]
    assert nodes("QNN16", graph("[q] c = QuantizeLinear (x, s, z) y = Relu (x)")) == ["q"]


def test_a_whole_clean_graph_has_no_findings() -> None:
    body = f"""{CONV} r = Relu (h) {pair("r", zero="u")} c2 = Conv (rd, wd) {pair("c2", zero="u")} a = Add (c2d, rd)
        k = Relu (a) {pair("k", zero="u")} p = GlobalAveragePool (kd) {end("p")}"""
    assert lint(graph(body), RULE_LISTS["qnn"]) == ()
