"""Small textual ONNX graphs, and what the linter finds in them."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from qatc.targets.lint import RULES, lint

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


NORM = "BatchNormalization (hd, b, b, b, b)"
