"""Every rule's fault, planted alone in a clean file that qatc lowered, is found, and nothing that it does not imply."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from ml_dtypes import float8_e4m3fn
from numpy.typing import NDArray

from qatc.targets import TARGETS
from qatc.targets.lint import RULE_LISTS, lint
from tests.targets.lint_graphs import pair
from tests.targets.lint_networks import lowered
from tests.targets.plant import Planter


class Fault(NamedTuple):
    """A rule, how it is broken, and the other rules that this breaks too."""

    rule: str
    plant: Callable[[Planter], object]
    implied: frozenset[str] = frozenset()


SIGNED, UNSIGNED = pair("q"), pair("q", zero="u")
# A convolution of its own behind the network's first quantizer, whose codes are uint8 or int8.
FREE = "wd2 = DequantizeLinear <axis = 0> (w, ws, wz) [free] q = Conv (stem.0_q, wd2) "
COUNTED = "AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1>"
AXIS_ONE = FREE.replace("axis = 0", "axis = 1").replace("q =", "y =")
CHANNELS = "kd = DequantizeLinear <axis = 0> (k, ws, wz) q = Mul (stem.0_q, kd)"
EVEN, ODD = pair("x", zero="u100"), pair("q", zero="u101")
HALF = f"k = Cast <to = 10> (x) {pair('k', zero='u')} y = Sqrt (kd)"
FLOAT8 = np.zeros((16, 16, 1, 1), float8_e4m3fn)
TWELVE = FREE.replace("q =", "y =").replace("ws, wz", "s, z")
BY_CHANNEL = np.ones((16, 1, 1), np.int8)
TANH = f"q = Tanh (stem.0_q) {pair('q', zero='wide')} y = Identity (qd)"
UNIT_CODES = "k = QuantizeLinear (stem.0, s, e) kd = DequantizeLinear (k, s, e) y = Identity (kd)"
FREE_RESULT = FREE + UNSIGNED + "y = Identity (qd)"


def implies(*rules: str) -> frozenset[str]:
    return frozenset(rules)


def zero(value: int, dtype: type[np.generic]) -> NDArray[np.generic]:
    return np.array(value, dtype)


def vector(p: Planter, quantizer: str, dtype: type[np.generic]) -> None:
    p.grid(quantizer, np.full(16, 0.1), np.zeros(16, dtype))
    p.attribute(f"{quantizer}/QuantizeLinear", "axis", 1)


def batch_of_one(p: Planter) -> None:
    for info in (*p.graph.input, *p.graph.output, *p.graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_value = 1


def last_layer_quantized(p: Planter) -> None:
    p.node("head/Gemm").output[0] = "logits"
    p.append("[planted_q] q = QuantizeLinear (logits, s, z) output = DequantizeLinear (q, s, z) y = Identity (x)")


def stray_q(p: Planter) -> None:
    p.append("[planted_q] q = QuantizeLinear (stem.0, stem.0_q.scale, stem.0_q.zero_point) y = Identity (x)")


def int32_bias(p: Planter) -> None:
    p.node("conv1/Conv").input[2] = "bd"
    p.append("bd = DequantizeLinear <axis = 0> (bi, ws, iz) y = Identity (x)")


def float_bias(p: Planter) -> None:
    p.node("conv1/Conv").input[2] = p.constant(np.ones(16), np.float32)
    p.graph.node.remove(p.node("conv1/DequantizeLinear_1"))


def excitation(p: Planter) -> None:
    gate = "k = GlobalAveragePool (stem.0_q) " + pair("k") + FREE.replace("stem.0_q", "kd")
    p.append(f"{gate} g = Sigmoid (q) {pair('g')} y = Mul (stem.0, gd)")


def two_scales(p: Planter, made: str) -> None:
    p.append(f"q = Concat <axis = 1> (stem.0_q, x_q) {made} y = Sqrt (qd)")


def unit(p: Planter, op: str, made: str, **constants: NDArray[np.generic]) -> None:
    """An op between the stem's quantizer and one of its own."""
    p.append(f"q = {op} {made} y = Sqrt (qd)", **constants)


TENSORRT = [
    Fault("TRT01", lambda p: p.grid("stem.0_q", zero=zero(3, np.int8))),
    Fault("TRT02", lambda p: p.grid("stem.0_q", zero=zero(0, np.uint8))),
    Fault("TRT03", int32_bias, implies("TRT02")),
    Fault("TRT04", lambda p: p.grid("stem.0_q", -0.5)),
    Fault("TRT05", lambda p: vector(p, "stem.0_q", np.int8)),
    Fault("TRT06", lambda p: p.attribute("conv1/DequantizeLinear", "axis", 1)),
    Fault("TRT07", lambda p: p.opset(12)),
    Fault("TRT08", lambda p: p.append(f"q = ReduceMax <keepdims = 0> (x) {SIGNED} y = Sqrt (qd)")),
    Fault("TRT09", lambda p: p.float_weight("conv2.0.0")),
    Fault("TRT10", lambda p: p.pair("stem.0/Conv", like="stem.0_q")),
    Fault("TRT11", lambda p: p.pair("conv1", like="stem.0_q")),
    Fault(
        "TRT12", lambda p: p.append("q = QuantizeLinear (stem.0, s, z) qd = DequantizeLinear (q, s, z) y = Sqrt (qd)")
    ),
    Fault("TRT13", lambda p: two_scales(p, SIGNED)),
    Fault("TRT14", lambda p: p.without("avg_pool2d_q"), implies("TRT09")),
    Fault("TRT15", lambda p: p.pair("relu_1", like="max_pool2d_q", scale=0.7)),
    Fault("TRT16", lambda p: p.append(f"q = Sqrt (x) {SIGNED} y = Softmax (qd)")),
    Fault("TRT17", excitation, implies("TRT14")),
    Fault("TRT18", lambda p: p.append(TWELVE, w=np.ones((12, 12, 3, 3), np.int8))),
    Fault("TRT19", batch_of_one),
    Fault("TRT20", last_layer_quantized),
    Fault("TRT21", stray_q),
    Fault("TRT22", lambda p: p.codes("conv1", code=-128)),
    Fault("TRT23", lambda p: p.append(f"{FREE} {SIGNED} y = BatchNormalization (qd, b, b, b, b)"), implies("TRT10")),
    Fault("TRT24", lambda p: p.append("y = com.microsoft.FastGelu (x)")),
]
ONNXRUNTIME = [
    Fault("ORT01", lambda p: p.grid("conv1_q", float("nan"))),
    Fault("ORT02", lambda p: p.opset(12)),
    Fault("ORT03", lambda p: p.codes("conv1", np.int16), implies("ORT02")),
    Fault("ORT04", lambda p: vector(p, "stem.0_q", np.uint8)),
    Fault("ORT05", lambda p: p.attribute("conv1/DequantizeLinear", "axis", 1)),
    Fault("ORT06", float_bias),
    Fault("ORT07", lambda p: p.feed("conv1/DequantizeLinear_1", 1, 1, np.float32)),
    Fault("ORT08", lambda p: p.float_weight("conv2.0.0")),
    Fault("ORT09", lambda p: p.attribute("head/Gemm", "alpha", 2.0)),
    Fault("ORT10", lambda p: p.append("y = Sqrt (stem.0)")),
    Fault("ORT11", lambda p: p.grid("relu_q", zero=zero(100, np.uint8))),
    Fault("ORT12", lambda p: unit(p, "Add (stem.0_q, x)", UNSIGNED)),
    Fault("ORT13", lambda p: p.grid("relu_q", zero=zero(-128, np.int8))),
    Fault("ORT14", lambda p: p.opset(21).grid("relu_1_q", zero=zero(-128, np.int8))),
    Fault("ORT15", lambda p: unit(p, "MaxPool <kernel_shape = [2, 2]> (stem.0_q)", UNSIGNED)),
    Fault("ORT16", lambda p: unit(p, "GlobalMaxPool (stem.0_q)", UNSIGNED)),
    Fault("ORT17", lambda p: unit(p, "HardSwish (stem.0_q)", UNSIGNED)),
    Fault("ORT18", lambda p: p.pair("avg_pool2d_q", like="stem.0_q"), implies("ORT07")),
    Fault("ORT19", stray_q),
    Fault("ORT20", lambda p: p.append(f"{EVEN} q = Mul (xd, xd) {pair('q', zero='u101')} y = Sqrt (qd)")),
    Fault("ORT21", lambda p: unit(p, "Softmax (stem.0_q)", UNSIGNED)),
    Fault(
        "ORT23",
        lambda p: p.append(f"k = Cast <to = 10> (x) {pair('k', zero='u')} y = Sqrt (kd)", s=zero(1, np.float16)),
    ),
]
OPENVINO = [
    Fault("OV01", lambda p: p.grid("stem.0_q", 0)),
    Fault("OV02", lambda p: p.opset(12)),
    Fault("OV03", lambda p: p.opset(21).grid("stem.0_q", zero=zero(0, np.uint16))),
    Fault("OV04", lambda p: p.opset(21).codes("conv1", np.int16)),
    Fault("OV05", lambda p: vector(p, "stem.0_q", np.uint8)),
    Fault("OV06", lambda p: p.attribute("conv1/DequantizeLinear", "axis", 1)),
    Fault("OV07", lambda p: p.feed("conv1/DequantizeLinear", 2, 1, np.int8)),
    Fault("OV08", lambda p: p.pair("conv2.1", like="relu_q")),
    Fault("OV09", lambda p: p.append(f"{EVEN} q = Pad (xd, pads) {UNSIGNED} y = Sqrt (qd)")),
    Fault("OV10", lambda p: p.append(f"k = Clip (w) {FREE.replace('(w,', '(k,').replace('q =', 'y =')}")),
    Fault("OV11", lambda p: p.float_weight("conv2.0.0")),
    Fault("OV12", lambda p: two_scales(p, UNSIGNED)),
    Fault("OV13", stray_q),
    Fault("OV14", lambda p: p.append(f"{EVEN} q = Add (xd, xd) {pair('q', zero='u101')} y = Sqrt (qd)")),
    Fault("OV15", lambda p: p.append(f"{EVEN} q = {COUNTED} (xd) {UNSIGNED} y = Sqrt (qd)")),
    Fault("OV16", lambda p: p.without("avg_pool2d_q")),
    Fault("OV17", lambda p: unit(p, "Softmax (stem.0_q)", UNSIGNED)),
]
GATED = f"g = Sigmoid (stem.0_q) {pair('g')} q = Mul (stem.0_q, gd) {SIGNED} y = Identity (qd)"
_BOTH_TIDL = [
    Fault("TIDL01", lambda p: p.grid("conv1_q", -1), implies("TIDL15")),
    Fault("TIDL02", lambda p: p.codes("conv1", np.int16)),
    Fault("TIDL03", lambda p: vector(p, "stem.0_q", np.int8), implies("TIDL15")),
    Fault("TIDL04", lambda p: p.append(AXIS_ONE), implies("TIDL15", "TIDL16")),
    Fault("TIDL05", lambda p: p.feed("conv1/DequantizeLinear", 2, 1, np.int8)),
    Fault("TIDL06", lambda p: p.grid("x_q", zero=zero(3, np.int8)), implies("TIDL17")),
    Fault("TIDL07", lambda p: p.feed("conv1/DequantizeLinear_1", 1, 2, np.float32)),
    Fault("TIDL08", lambda p: p.float_weight("conv2.0.0")),
    Fault("TIDL09", lambda p: p.pair("stem.0/Conv", like="stem.0_q")),
    Fault("TIDL10", lambda p: p.append(GATED)),
    Fault("TIDL11", lambda p: p.append(f"k = Sigmoid (stem.0_q) q = Exp (k) {SIGNED} y = Identity (qd)")),
    Fault("TIDL12", stray_q),
]
TIDL = [
    *_BOTH_TIDL,
    Fault("TIDL13", lambda p: p.append(f"{FREE} {pair('q', zero='u100')} y = Sigmoid (qd)")),
    Fault("TIDL14", lambda p: p.append(f"{CHANNELS} {SIGNED} y = Identity (qd)", k=BY_CHANNEL)),
]
TIDL_TDA4VM = [
    *_BOTH_TIDL,
    Fault("TIDL15", lambda p: p.grid("stem.0_q", 0.3), implies("TIDL07")),
    Fault("TIDL16", lambda p: p.append(FREE.replace("q =", "y ="), ws=np.full(16, 0.125, np.float32))),
    Fault("TIDL17", lambda p: p.grid("stem.0_q", zero=zero(2, np.int8))),
]
QNN = [
    Fault("QNN01", lambda p: p.grid("conv1_q", -1)),
    Fault("QNN02", lambda p: p.append(UNIT_CODES, e=zero(0, np.int32).astype(float8_e4m3fn))),
    Fault(
        "QNN03",
        lambda p: p.append(FREE_RESULT, w=FLOAT8, wz=FLOAT8[:, 0, 0, 0]),
    ),
    Fault("QNN04", lambda p: p.opset(12)),
    Fault("QNN05", lambda p: vector(p, "stem.0_q", np.uint8)),
    Fault("QNN06", lambda p: p.attribute("conv1/DequantizeLinear", "axis", 1)),
    Fault("QNN07", lambda p: p.append(f"{CHANNELS} {UNSIGNED} y = Identity (qd)", k=BY_CHANNEL)),
    Fault("QNN08", lambda p: p.feed("conv1/DequantizeLinear", 2, 1, np.int8)),
    Fault("QNN09", lambda p: p.append(f"q = Sqrt (x) {UNSIGNED} y = Identity (qd)")),
    Fault("QNN10", lambda p: p.opset(21).append(TANH, wide=zero(0, np.uint16))),
    Fault("QNN11", lambda p: p.pair("stem.0/Conv", like="stem.0_q")),
    Fault("QNN12", lambda p: p.without("conv1_q")),
    Fault("QNN13", lambda p: p.float_weight("conv2.0.0")),
    Fault("QNN14", lambda p: p.append(f"q = Transpose (stem.0_q) {UNSIGNED} y = Identity (qd)")),
    Fault("QNN15", lambda p: p.feed("conv1/DequantizeLinear_1", 1, 1, np.float32)),
    Fault("QNN16", stray_q),
]
FAULTS = {
    "onnxruntime": ONNXRUNTIME,
    "tensorrt": TENSORRT,
    "openvino": OPENVINO,
    "tidl": TIDL,
    "tidl-tda4vm": TIDL_TDA4VM,
    "qnn": QNN,
}


# Weights that use all of int8 have it in the clean file too; tests of the rule itself have files without.
IN_CLEAN_FILES = {"ORT22"}


@pytest.mark.parametrize("target", [name for name in RULE_LISTS if name in TARGETS])
def test_the_file_without_faults_has_none(target: str) -> None:
    assert {finding.rule for finding in lint(lowered("residual", target), RULE_LISTS[target])} <= IN_CLEAN_FILES


@pytest.mark.parametrize("target", RULE_LISTS)
def test_every_rule_has_a_fault(target: str) -> None:
    assert [fault.rule for fault in FAULTS[target]] == [r for r in RULE_LISTS[target] if r not in IN_CLEAN_FILES]


@pytest.mark.parametrize(
    ("target", "fault"),
    [pytest.param(name, fault, id=f"{name}-{fault.rule}") for name in TARGETS for fault in FAULTS.get(name, ())],
)
def test_a_planted_fault_is_found_and_nothing_else(target: str, fault: Fault) -> None:
    planter = Planter(lowered("residual", target))
    fault.plant(planter)
    found = {finding.rule for finding in lint(planter.model, RULE_LISTS[target])}
    assert found - IN_CLEAN_FILES == {fault.rule} | (fault.implied & set(RULE_LISTS[target]))
