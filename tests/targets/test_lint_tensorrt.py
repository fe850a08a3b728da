"""Each TensorRT rule finds a file that breaks it and stays silent on one that keeps it."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from qatc.targets.lint import lint
from tests.targets.lint_graphs import CONV, IMAGE, NORM, ZERO, H, M, W, X, found, nodes, pair, parse


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
