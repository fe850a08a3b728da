"""The linter's rules from TRT15 on, whole blocks, and odd files."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qatc.errors import ConfigError
from qatc.targets.lint import RULE_LISTS, RULES, Finding, lint
from tests.targets.lint_graphs import CONSTANTS, CONV, NORM, H, M, W, X, found, nodes, pair, parse


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


TENSORRT = RULE_LISTS["tensorrt"]
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
    assert lint(model, TENSORRT) == ()


def test_onnxruntime_style_block_is_not() -> None:
    """uint8 codes with a zero point, int32 biases, both Add inputs and the output quantized."""
    h, c, a, p, f = (pair(name, zero="u") for name in "hcapf")
    body = f"""
        {pair("x", zero="u")} {W} bd = DequantizeLinear <axis = 0> (bi, ws, iz)
        [conv1] c1 = Conv (xd, wd, bd) h = Relu (c1) {h} [conv2] c = Conv (hd, wd, bd) {c} [add] a0 = Add (cd, xd)
        a = Relu (a0) {a} p = GlobalAveragePool (ad) {p} f = Flatten (pd) {f} {M} [fc] g = Gemm (fd, md, bd)
        [g_q] gc = QuantizeLinear (g, s, u) y = DequantizeLinear (gc, s, u)
    """
    findings = lint(parse(body, y="float[N,16]", u=np.array(7, np.uint8)), TENSORRT)
    assert {(finding.rule, finding.node) for finding in findings} >= {
        ("TRT01", "x_q"),
        ("TRT02", "x_dq"),
        ("TRT03", "conv1"),
        ("TRT03", "fc"),
        ("TRT11", "add"),
        ("TRT20", "g_q"),
    }


def test_unknown_rule_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'TRT9'\n.*did you mean 'TRT"):
        lint(onnx.ModelProto(), ["TRT9"])


def test_finding_prints_on_one_line() -> None:
    finding = Finding("TRT08", "error", "q", "quantizes a scalar")
    assert str(finding) == "TRT08 error at q: quantizes a scalar"


def test_every_rule_is_listed_once_with_its_source() -> None:
    assert list(TENSORRT) == [f"TRT{number:02}" for number in range(1, 25)]
    assert all(rule.id == name and rule.summary and rule.source for name, rule in RULES.items())
    assert [name for name in TENSORRT if RULES[name].severity == "error"] == [
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
        assert {finding.rule for finding in lint(model, TENSORRT)} <= {"TRT02", "TRT03", "TRT04"}


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
