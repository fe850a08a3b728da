"""Each TensorRT rule finds a file that breaks it and stays silent on one that keeps it."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from qatc.targets.lint import RULES, Finding, lint

IMAGE = "float[N,16,8,8]"
ZERO = np.array(0, np.int8)
CONSTANTS: dict[str, NDArray[np.generic]] = {
    "s": np.array(0.5, np.float32),
    "same": np.array(0.5, np.float32),
    "t": np.array(0.25, np.float32),
    "z": ZERO,
    "w": np.ones((16, 16, 1, 1), np.int8),
    "ws": np.full(16, 0.125, np.float32),
    "wz": np.zeros(16, np.int8),
    "m": np.ones((16, 16), np.int8),
    "b": np.ones(16, np.float32),
    "bi": np.ones(16, np.int32),
    "iz": np.zeros(16, np.int32),
    "wf": np.ones((16, 16, 1, 1), np.float32),
}
W = "[w_q] wd = DequantizeLinear <axis = 0> (w, ws, wz)"
M = "[m_dq] md = DequantizeLinear <axis = 1> (m, ws, wz)"


def pair(tensor: str, scale: str = "s", zero: str = "z") -> str:
    """Text of a Q and a DQ: x -> xd by nodes x_q and x_dq."""
    return (
        f"[{tensor}_q] {tensor}c = QuantizeLinear ({tensor}, {scale}, {zero})\n"
        f"[{tensor}_dq] {tensor}d = DequantizeLinear ({tensor}c, {scale}, {zero})\n"
    )


X, H = pair("x"), pair("h")
CONV = f"{X} {W} [conv] h = Conv (xd, wd, b)"


Type = str
Constant = NDArray[np.generic]


def parse(body: str, x: Type = IMAGE, y: Type = IMAGE, opset: int = 18, **constants: Constant) -> onnx.ModelProto:
    imports = f'["" : {opset}, "com.microsoft" : 1]'
    model = onnx.parser.parse_model(f"<ir_version: 9, opset_import: {imports}> g ({x} x) => ({y} y) {{ {body} }}")
    used = {name for node in model.graph.node for name in node.input}
    for name, value in (CONSTANTS | constants).items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def nodes(rule: str, model: onnx.ModelProto) -> list[str]:
    findings = lint(model, [rule])
    assert all((finding.rule, finding.severity) == (rule, RULES[rule].severity) for finding in findings)
    return [finding.node for finding in findings]


def found(rule: str, body: str, x: Type = IMAGE, y: Type = IMAGE, opset: int = 18, **constants: Constant) -> list[str]:
    model = parse(body, x, y, opset, **constants)
    onnx.checker.check_model(model, full_check=True)
    return nodes(rule, model)


def test_trt01_zero_points_are_constant_zeros() -> None:
    assert found("TRT01", f"{pair('x', zero='z3')} y = Relu (xd)", z3=np.array(3, np.int8)) == ["x_q", "x_dq"]
    computed = "k = Cast <to = 3> (r) r = ReduceMax <keepdims = 0> (x)"
    assert nodes("TRT01", parse(f"{computed} {pair('x', zero='k')} y = Relu (xd)")) == ["x_q", "x_dq"]
    assert found("TRT01", f"{CONV} y = Relu (h)") == []
    assert found("TRT01", f"k = Identity (z) {pair('x', zero='k')} y = Relu (xd)") == []


def test_trt02_codes_have_a_tensorrt_type() -> None:
    assert found("TRT02", f"{pair('x', zero='u')} y = Relu (xd)", u=np.array(0, np.uint8)) == ["x_q", "x_dq"]
    untyped = "[x_q] c = QuantizeLinear (x, s) [x_dq] y = DequantizeLinear (c, s)"
    assert found("TRT02", untyped) == ["x_q"]
    assert found("TRT02", f"{CONV} y = Relu (h)") == []


def test_trt03_biases_are_float() -> None:
    bias = "bd = DequantizeLinear <axis = 0> (bi, ws, iz)"
    assert found("TRT03", f"{X} {W} {bias} [conv] y = Conv (xd, wd, bd)") == ["conv"]
    added = f"{X} {M} {bias} p = MatMul (xd, md) [bias] y = Add (p, bd)"
    assert found("TRT03", added, "float[N,16]", "float[N,16]") == ["bias"]
    assert found("TRT03", f"{CONV} y = Relu (h)") == []


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_trt04_scales_are_positive(scale: float) -> None:
    bad = np.array(scale, np.float32)
    assert found("TRT04", f"{pair('x', 'bad')} y = Relu (xd)", bad=bad) == ["x_q", "x_dq"]


def test_trt04_scales_are_constant_with_a_zero_point_each() -> None:
    assert found("TRT04", f"r = ReduceMax <keepdims = 0> (x) {pair('x', 'r')} y = Relu (xd)") == ["x_q", "x_dq"]
    assert nodes("TRT04", parse("[w_q] wd = DequantizeLinear <axis = 0> (w, ws, z) y = Conv (x, wd)")) == ["w_q"]
    assert found("TRT04", f"{CONV} y = Relu (h)") == []


def test_trt05_activations_are_per_tensor() -> None:
    channels = "[q] c = QuantizeLinear <axis = 1> (x, ws, wz) [dq] y = DequantizeLinear <axis = 1> (c, ws, wz)"
    assert found("TRT05", channels) == ["q", "dq"]
    assert found("TRT05", f"{CONV} y = Relu (h)") == []
    assert found("TRT05", f"{pair('x', 'one', 'oz')} y = Relu (xd)", one=np.ones(1, np.float32), oz=ZERO[None]) == []


@pytest.mark.parametrize(
    ("weight", "op", "right", "wrong"),
    [
        ("w", "Conv (x, wd)", 0, 1),
        ("w", "ConvTranspose (x, wd)", 1, 0),
        ("w", "ConvTranspose (x, wd)", -3, -4),
        ("m", "Gemm (x, wd)", 1, 0),
        ("m", "Gemm <transB = 1> (x, wd)", 0, 1),
        ("m", "MatMul (x, wd)", 1, 0),
        ("m", "MatMul (wd, x)", 0, 1),
        ("m", "MatMul (x, wt) wt = Transpose <perm = [1, 0]> (wd)", 0, 1),
    ],
)
def test_trt06_scales_follow_the_output_channel(weight: str, op: str, right: int, wrong: int) -> None:
    x = IMAGE if weight == "w" else "float[16,16]"
    for axis, expected in ((right, []), (wrong, ["w_q"])):
        body = f"[w_q] wd = DequantizeLinear <axis = {axis}> ({weight}, ws, wz) y = {op}"
        assert nodes("TRT06", parse(body, x, x)) == expected


def test_trt06_axis_is_written_and_fits() -> None:
    assert found("TRT06", "[w_q] wd = DequantizeLinear (w, ws, wz) y = ConvTranspose (x, wd)") == ["w_q"]
    assert nodes("TRT06", parse(f"{W} y = Conv (x, wd)", w=np.ones((8, 16, 1, 1), np.int8))) == ["w_q"]
    assert nodes("TRT06", parse("[w_q] wd = DequantizeLinear <axis = 4> (w, ws, wz) y = Conv (x, wd)")) == ["w_q"]


def test_trt07_opset_has_the_form() -> None:
    assert nodes("TRT07", parse("[w_q] wd = DequantizeLinear (w, ws, wz) y = Conv (x, wd)", opset=12)) == ["w_q"]
    assert found("TRT07", f"{pair('x')} y = Relu (xd)", opset=12) == []
    float8 = parse(f"{pair('x', zero='f8')} y = Relu (xd)")
    float8.graph.initializer.append(helper.make_tensor("f8", TensorProto.FLOAT8E4M3FN, [], [0.0]))
    assert nodes("TRT07", float8) == ["x_q", "x_dq"]
    float8.opset_import[0].version = 19
    assert nodes("TRT07", float8) == []


@pytest.mark.parametrize(
    ("shape", "scales", "expected"),
    [([4, 4], [2, 4], []), ([3, 3], [], ["w_q"]), ([4, 4], [2, 2], ["w_q"]), ([4, 4], [3, 4], ["w_q"])],
)
def test_trt07_four_bit_blocks(shape: list[int], scales: list[int], expected: list[str]) -> None:
    model = parse(
        "[w_q] wd = DequantizeLinear <axis = 0> (w4, k) y = MatMul (x, wd)", k=np.ones(scales, np.float32), opset=21
    )
    model.graph.initializer.append(helper.make_tensor("w4", TensorProto.INT4, shape, np.ones(shape).ravel()))
    assert nodes("TRT07", model) == expected


def test_trt08_no_scalar_is_quantized() -> None:
    assert found("TRT08", f"{X} y = Relu (xd)", "float", "float") == ["x_q", "x_dq"]
    assert found("TRT08", f"{X} y = Relu (xd)") == []


def test_trt09_weighted_ops_are_quantized_whole() -> None:
    assert found("TRT09", f"{X} [conv] y = Conv (xd, wf)") == ["conv"]
    assert found("TRT09", f"{W} [conv] y = Conv (x, wd)") == ["conv"]
    assert found("TRT09", "y = Conv (x, wf)") == []
    assert found("TRT09", f"{X} {W} p = MaxPool <kernel_shape = [1, 1]> (xd) y = Conv (p, wd)") == []


def test_trt09_weight_only_four_bits_are_meant() -> None:
    model = parse("wd = DequantizeLinear (w4, s) y = MatMul (x, wd)", "float[N,4]", "float[N,4]", opset=21)
    model.graph.initializer.append(helper.make_tensor("w4", TensorProto.INT4, [4, 4], np.ones(16)))
    assert nodes("TRT09", model) == []


NORM = "BatchNormalization (hd, b, b, b, b)"


@pytest.mark.parametrize(
    "end", ["y = Relu (hd)", "y = Clip (hd, s)", f"y = {NORM}", "g = Sigmoid (hd) y = Mul (hd, g)"]
)
def test_trt10_no_pair_inside_an_epilogue(end: str) -> None:
    assert found("TRT10", f"{CONV} {H} {end}") == ["h_q"]
    assert found("TRT10", f"{CONV} {end.replace('hd', 'h')}") == []


def test_trt10_knows_where_a_kernel_ends() -> None:
    assert found("TRT10", f"{CONV} a = Add (h, xd) {pair('a')} y = Relu (ad)") == ["a_q"]
    assert found("TRT10", f"{CONV} r = Relu (h) {pair('r')} y = Conv (rd, wd)") == []
    shared = f"{CONV} {H} r = Relu (hd) c = Conv (hd, wd) y = Add (r, c)"
    assert found("TRT10", shared) == []
    downsampled = f"{CONV} {H} main = Conv (xd, wd) a = Add (main, hd) y = Relu (a)"
    assert found("TRT10", downsampled) == []


@pytest.mark.parametrize(
    ("operands", "expected"),
    [("h, xd", []), ("xd, n", []), ("hd, xd", ["add"]), ("h, x", ["add"]), ("hd, x", ["add"])],
)
def test_trt11_only_the_skip_is_quantized(operands: str, expected: list[str]) -> None:
    norm = NORM.replace("hd", "h")
    assert found("TRT11", f"{CONV} {H} n = {norm} [add] y = Add ({operands})") == expected


@pytest.mark.parametrize(
    "body",
    [
        "h = Conv (x, wf) y = Add (h, x)",
        f"h = Relu (x) {X} {H} y = Add (xd, hd)",
        f"{CONV} k = Unsqueeze (b, axes) y = Add (h, k)",
        f"{CONV} g = Softplus (h) y = Add (h, g)",
        f"{CONV} p = GlobalAveragePool (x) y = Add (h, p)",
        f"{CONV} v = Sigmoid (h) u = Mul (h, v) y = Add (u, x)",
    ],
    ids=["float", "no product", "bias", "gated by itself", "broadcast", "behind an activation"],
)
def test_trt11_other_adds_are_no_residual(body: str) -> None:
    assert found("TRT11", body, axes=np.array([1, 2])) == []


def test_trt11_the_later_convolution_is_fused() -> None:
    """Both sides come from a convolution, but the first one is done before the second can start."""
    later = f"{CONV} {H} r = Conv (hd, wd)"
    assert found("TRT11", f"{later} [add] y = Add (r, hd)") == []
    assert found("TRT11", f"{later} [add] y = Add (r, h)") == ["add"]


def test_trt11_names_the_longer_path() -> None:
    body = f"{CONV} r = Relu (h) {pair('r')} [main] m2 = Conv (rd, wd) [down] d = Conv (xd, wd) y = Add (d, m2)"
    (finding,) = lint(parse(body), ["TRT11"])
    assert "'main'" in finding.message
    assert "'down'" not in finding.message


def test_trt12_one_scale_per_tensor() -> None:
    for scale, expected in (("t", ["other"]), ("same", [])):
        other = f"[other] o = QuantizeLinear (x, {scale}, z) od = DequantizeLinear (o, {scale}, z)"
        assert found("TRT12", f"{X} {other} y = Add (xd, od)") == expected


def test_trt13_concats_share_a_scale() -> None:
    for scale, expected in (("t", ["cat"]), ("same", [])):
        body = f"h = Relu (x) {X} {H} [cat] k = Concat <axis = 1> (xd, hd) {pair('k', scale)} y = Relu (kd)"
        assert found("TRT13", body, y="float[N,32,8,8]") == expected


def test_trt14_integer_in_means_integer_out() -> None:
    pool = f"{X} [pool] k = GlobalAveragePool (xd)"
    assert found("TRT14", f"{pool} y = Relu (k)", y="float[N,16,1,1]") == ["pool"]
    assert found("TRT14", f"{pool} f = Flatten (k) {pair('f')} y = Relu (fd)", y="float[N,16]") == []
    assert found("TRT14", f"{X} g = Exp (x) [mul] k = Mul (xd, g) {pair('k')} y = Relu (kd)") == ["mul"]
    assert found("TRT14", f"{X} h = Exp (x) {H} [mul] y = Mul (xd, hd)") == ["mul"]
    assert found("TRT14", f"{X} h = Exp (x) {H} k = Mul (xd, hd) {pair('k')} y = Relu (kd)") == []
    assert found("TRT14", f"{CONV} g = Sigmoid (h) u = Mul (h, g) y = Add (u, xd)") == []
    assert found("TRT14", f"{CONV} {H} y = Add (hd, x)") == []


def test_trt15_moves_keep_the_scale() -> None:
    for scale, expected in (("t", ["pool"]), ("same", [])):
        body = f"{X} [pool] k = MaxPool <kernel_shape = [1, 1]> (xd) {pair('k', scale)} y = Relu (kd)"
        assert found("TRT15", body) == expected


def test_trt16_float_ops_have_no_pair() -> None:
    assert found("TRT16", f"{X} y = Softmax (xd)") == ["x_q"]
    assert found("TRT16", f"{X} y = LeakyRelu (xd)") == ["x_q"]
    assert found("TRT16", f"h = Softmax (x) {H} {W} y = Conv (hd, wd)") == []
    assert found("TRT16", f"{CONV} k = Softmax (xd) y = Add (h, k)") == []


def test_trt16_lets_a_kernel_write_codes_for_a_layer_norm() -> None:
    norm = "y = LayerNormalization <axis = -1> ({0}, k)"
    assert found("TRT16", f"{X} {norm.format('xd')}", k=np.ones(8, np.float32)) == ["x_q"]
    assert found("TRT16", f"{CONV} {H} {norm.format('hd')}", k=np.ones(8, np.float32)) == []


def test_trt16_sees_decomposed_norms_and_gelus() -> None:
    head, tail = "k = Div (x, s) h = Erf (k)", "l = Add ({0}, s) o = Mul (x, l) y = Mul (o, t)"
    assert found("TRT16", f"{head} {H} {tail.format('hd')}") == ["h_q"]
    assert found("TRT16", f"{head} {tail.format('h')}") == []
    norm = "a = ReduceMean (x) h = Sub (x, a) {0} p = Pow ({1}, t) v = ReduceMean (p)"
    norm += " e = Add (v, s) r = Sqrt (e) y = Div (h, r)"
    assert found("TRT16", norm.format(H, "hd")) == ["h_q"]
    assert found("TRT16", norm.format("", "h")) == []


def test_trt17_no_pair_inside_silu() -> None:
    assert found("TRT17", f"{CONV} k = Sigmoid (h) {pair('k')} [mul] y = Mul (h, kd)") == ["mul"]
    assert found("TRT17", f"{CONV} k = Sigmoid (h) o = Mul (h, k) {pair('o')} y = Conv (od, wd)") == []


def test_trt17_excitation_is_quantized_on_both_sides() -> None:
    gate = f"{X} {W} p = GlobalAveragePool (xd) {pair('p')} e = Conv (pd, wd) g = Sigmoid (e) {pair('g')}"
    assert found("TRT17", f"{gate} [mul] y = Mul (x, gd)") == ["mul"]
    assert found("TRT17", f"{gate} [mul] y = Mul (xd, gd)") == []


@pytest.mark.parametrize(
    ("shape", "groups", "expected"),
    [
        ([16, 16, 1, 1], 1, []),
        ([16, 3, 3, 3], 1, []),
        ([8, 1, 3, 3], 8, []),
        ([8, 1, 1, 1], 8, ["conv"]),
        ([12, 4, 3, 3], 1, ["conv"]),
        ([16, 3, 1, 3], 1, ["conv"]),
    ],
)
def test_trt18_convolutions_have_kernels(shape: list[int], groups: int, expected: list[str]) -> None:
    body = f"{X} [w_q] wd = DequantizeLinear (w, s, z) [conv] y = Conv <group = {groups}> (xd, wd)"
    x = f"float[N,{shape[1] * groups},8,8]"
    assert found("TRT18", body, x, "float[N,C,A,B]", w=np.ones(shape, np.int8)) == expected


@pytest.mark.parametrize(("rows", "expected"), [("1", ["product"]), ("N", []), ("2", [])])
def test_trt19_products_are_matrices(rows: str, expected: list[str]) -> None:
    assert (
        found("TRT19", f"{X} {M} [product] y = MatMul (xd, md)", f"float[{rows},16]", f"float[{rows},16]") == expected
    )


def test_trt20_outputs_are_not_quantized() -> None:
    assert found("TRT20", f"{CONV} [y_q] c = QuantizeLinear (h, s, z) y = DequantizeLinear (c, s, z)") == ["y_q"]
    assert found("TRT20", f"{CONV} {H} y = Flatten (hd)", y="float[N,A]") == ["h_q"]
    assert found("TRT20", f"{CONV} y = Relu (h)") == []


def test_trt21_pairs_are_complete() -> None:
    assert found("TRT21", f"{X} {pair('xd')} y = Relu (xdd)") == ["xd_q"]
    assert found("TRT21", f"{X} {pair('xd', 't')} y = Relu (xdd)") == []
    assert found("TRT21", "[q] c = QuantizeLinear (x, s, z) y = Relu (x)") == ["q"]
    assert found("TRT21", "[q] c = QuantizeLinear (x, s, z) y = Cast <to = 1> (c)") == ["q"]
    assert found("TRT21", "[dq] d = DequantizeLinear (x, s, z) y = Relu (d)", "int8[N]", "float[N]") == ["dq"]
    assert found("TRT21", f"{CONV} y = Relu (h)") == []


def test_trt22_weight_codes_are_narrow() -> None:
    wide = np.full((16, 16, 1, 1), -128, np.int8)
    assert found("TRT22", f"{W} y = Conv (x, wd)", w=wide) == ["w_q"]
    written = "[k_q] k = QuantizeLinear <axis = 0> (wf, ws, wz) wd = DequantizeLinear <axis = 0> (k, ws, wz)"
    assert found("TRT22", f"{written} y = Conv (x, wd)", wf=wide.astype(np.float32)) == ["k_q"]
    assert found("TRT22", f"{written} y = Conv (x, wd)") == []
    assert found("TRT22", f"{CONV} y = Relu (h)") == []


def test_trt23_norms_follow_their_convolution() -> None:
    assert found("TRT23", f"{CONV} {H} [norm] y = {NORM}") == ["norm"]
    assert found("TRT23", f"{CONV} y = {NORM.replace('hd', 'h')}") == []
    assert found("TRT23", f"h = Relu (x) {H} y = {NORM}") == []


def test_trt24_only_importable_ops() -> None:
    assert found("TRT24", "[int] i = MatMulInteger (x, m) y = Cast <to = 1> (i)", "int8[N,16]", "float[N,16]") == [
        "int"
    ]
    assert nodes("TRT24", parse("[ms] y = com.microsoft.FastGelu (x)")) == ["ms"]
    assert found("TRT24", f"{CONV} y = Relu (h)") == []


HEAD = "p = GlobalAveragePool ({0}) f = Flatten (p)"


def test_tensorrt_style_block_is_clean() -> None:
    """Q/DQ on convolution inputs and the skip, float bias, int8 weights, nothing on the output."""
    body = f"""
        {X} {W} c1 = Conv (xd, wd, b) h = Relu (c1) {H}
        c2 = Conv (hd, wd, b) n = {NORM.replace("hd", "c2")} a = Add (n, xd) r = Relu (a) {pair("r")}
        {HEAD.format("rd")} {pair("f")} {M} y = Gemm (fd, md, b)
    """
    model = parse(body, y="float[N,16]")
    onnx.checker.check_model(model, full_check=True)
    assert lint(model, list(RULES)) == ()


def test_onnxruntime_style_block_is_not() -> None:
    """uint8 codes with a zero point, int32 biases, both Add inputs and the output quantized."""
    h, c, a, p, f = (pair(name, zero="u") for name in "hcapf")
    body = f"""
        {pair("x", zero="u")} {W} bd = DequantizeLinear <axis = 0> (bi, ws, iz)
        [conv1] c1 = Conv (xd, wd, bd) h = Relu (c1) {h} [conv2] c = Conv (hd, wd, bd) {c} [add] a0 = Add (cd, xd)
        a = Relu (a0) {a} p = GlobalAveragePool (ad) {p} f = Flatten (pd) {f} {M} [fc] g = Gemm (fd, md, bd)
        [g_q] gc = QuantizeLinear (g, s, u) y = DequantizeLinear (gc, s, u)
    """
    findings = lint(parse(body, y="float[N,16]", u=np.array(7, np.uint8)), list(RULES))
    assert {(finding.rule, finding.node) for finding in findings} >= {
        ("TRT01", "x_q"),
        ("TRT02", "x_dq"),
        ("TRT03", "conv1"),
        ("TRT03", "fc"),
        ("TRT11", "add"),
        ("TRT20", "g_q"),
    }


def test_unknown_rule_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'trt09'.*'TRT09'"):
        lint(onnx.ModelProto(), ["trt09"])


def test_finding_prints_on_one_line() -> None:
    finding = Finding("TRT08", "error", "q", "quantizes a scalar")
    assert str(finding) == "TRT08 error at q: quantizes a scalar"


def test_every_rule_is_listed_once_with_its_source() -> None:
    assert list(RULES) == [f"TRT{number:02}" for number in range(1, 25)]
    assert all(rule.id == name and rule.summary and rule.source for name, rule in RULES.items())
    assert [name for name, rule in RULES.items() if rule.severity == "error"] == [
        *(f"TRT{number:02}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 21)),
    ]


ODD_OPS = [
    *("QuantizeLinear", "DequantizeLinear", "Conv", "Gemm", "MatMul", "Add", "Mul", "BatchNormalization", "Sigmoid"),
    *("Concat", "MaxPool", "Resize", "Constant", "GlobalAveragePool", "Softmax", "Relu", "Transpose", "Split", "If"),
    *("Identity", "ReduceMean", "Sub", "Pow", "Sqrt", "Div", "Erf", "QLinearConv"),
]


@pytest.mark.parametrize("seed", range(40))
def test_no_odd_graph_crashes_the_linter(seed: int) -> None:
    """Random wiring: cycles, absent inputs, unnamed nodes, unknown shapes, scalar and vector scales, no zero point."""
    random = np.random.default_rng(seed)
    tensors = ["", "x", "s", "t", "z", "ws", "w", *(f"v{index}" for index in range(24))]
    graph = onnx.GraphProto(name="odd")
    for index in range(24):
        reads = random.choice(tensors[: index + 12], size=random.integers(0, 4))
        makes = [f"v{index}"] if random.random() > 0.05 else []
        node = graph.node.add(op_type=str(random.choice(ODD_OPS)), input=[str(name) for name in reads], output=makes)
        if random.random() < 0.3:
            node.attribute.append(helper.make_attribute("axis", int(random.integers(-5, 5))))
    graph.output.add(name="v23")
    graph.initializer.extend(numpy_helper.from_array(CONSTANTS[name], name) for name in ("s", "t", "z", "ws", "w"))
    opset = helper.make_opsetid("", int(random.choice([1, 10, 13, 21, 99])))
    lint(onnx.ModelProto(graph=graph, opset_import=[opset] if seed % 3 else []), list(RULES))


@pytest.mark.parametrize("kind", [TensorProto.UNDEFINED, TensorProto.STRING, TensorProto.FLOAT, 99])
def test_unreadable_constants_are_not_guessed_at(kind: int) -> None:
    """The scale and zero point have too few bytes, or lie in a file that is not here."""
    for external in (False, True):
        model = parse(f"{CONV} y = Relu (h)")
        for tensor in model.graph.initializer:
            tensor.raw_data = b"0"
            tensor.data_type = kind
            tensor.data_location = TensorProto.EXTERNAL if external else TensorProto.DEFAULT
        assert {finding.rule for finding in lint(model, list(RULES))} <= {"TRT02", "TRT03", "TRT04"}


def test_a_control_flow_body_reads_what_it_captures() -> None:
    body = f"{X} k = Constant <value_int = 1> () c = Cast <to = 9> (k)"
    branch = "g () => (float r) { r = Identity (xd) }"
    captured = f"{body} y = If (c) <then_branch = {branch}, else_branch = {branch}>"
    assert nodes("TRT21", parse(captured)) == []
    assert nodes("TRT21", parse(captured.replace("(xd)", "(x)"))) == ["x_dq"]


def test_names_that_are_missing_are_made_up() -> None:
    assert found("TRT21", "c = QuantizeLinear (x, s, z) y = Relu (x)") == ["QuantizeLinear->c"]


def test_empty_models_have_no_findings() -> None:
    assert lint(onnx.ModelProto(), list(RULES)) == ()
    assert lint(parse("y = Identity (x)"), list(RULES)) == ()
