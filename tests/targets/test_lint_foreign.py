"""Files that other tools quantized: no false alarm for their own runtime, and what another one makes of them."""

from collections import Counter
from pathlib import Path

import pytest

from qatc.targets.lint import RULE_LISTS, Finding, lint
from tests.targets.foreign_files import foreign
from tests.targets.runtime_graphs import optimized_ops

NETWORKS = ("convnet", "vit")


def findings(name: str, target: str) -> tuple[Finding, ...]:
    return lint(foreign(name), RULE_LISTS[target])


@pytest.mark.parametrize("network", NETWORKS)
def test_modelopts_files_are_clean_for_tensorrt(network: str) -> None:
    assert findings(f"modelopt_{network}", "tensorrt") == ()


@pytest.mark.parametrize("network", NETWORKS)
def test_onnxruntimes_files_are_clean_for_qnn(network: str) -> None:
    """Its quantizer puts a grid on every tensor, as that for the QNN provider does."""
    assert findings(f"onnxruntime_{network}", "qnn") == ()


@pytest.mark.parametrize("network", NETWORKS)
def test_onnxruntimes_files_have_no_errors_for_onnxruntime(network: str) -> None:
    found = findings(f"onnxruntime_{network}", "onnxruntime")
    # It quantizes the mean as it is, and the Softmax of attention.
    expected = {"convnet": {"ORT16": 2}, "vit": {"ORT21": 1}}[network]
    assert Counter(finding.rule for finding in found if finding.severity != "note") == expected


def test_every_fault_of_onnxruntimes_file_for_tensorrt_is_found() -> None:
    model = foreign("onnxruntime_convnet")
    found = findings("onnxruntime_convnet", "tensorrt")
    by_rule = {rule: {f.node for f in found if f.rule == rule} for rule in {f.rule for f in found}}
    ops = {node.op_type: [n.name for n in model.graph.node if n.op_type == node.op_type] for node in model.graph.node}
    zero_points = {tensor.name: tensor for tensor in model.graph.initializer if "zero_point" in tensor.name}
    shifted = [
        node.name
        for node in model.graph.node
        if node.op_type.endswith("quantizeLinear") or node.op_type == "QuantizeLinear"
        if any(byte for byte in zero_points[node.input[2]].raw_data)
    ]
    assert by_rule["TRT01"] == set(shifted)  # zero points
    unsigned = [n for n in ops["QuantizeLinear"] + ops["DequantizeLinear"] if "weight" not in n and "bias" not in n]
    assert by_rule["TRT02"] >= set(unsigned)  # uint8 codes
    assert by_rule["TRT11"] == {"node_add", "node_add_1"}  # both inputs of the residual adds
    assert by_rule["TRT20"] == {"linear_QuantizeLinear"}  # the output
    assert by_rule["TRT13"] == {"node_cat"}  # a concatenation of three scales
    assert by_rule["TRT17"] == {"node_silu", "node_silu_1"}  # grids within SiLU
    biased = {node.name for node in model.graph.node if len(node.input) == 3 and node.op_type in {"Conv", "Gemm"}}
    assert by_rule["TRT03"] == biased  # int32 biases


def test_what_of_modelopts_file_falls_to_float_on_onnxruntime(tmp_path: Path) -> None:
    model = foreign("modelopt_convnet")
    found = findings("modelopt_convnet", "onnxruntime")
    convolutions = {node.name for node in model.graph.node if node.op_type == "Conv"}
    # Raw sums, SiLU and gates, a ReLU in front of int8 codes: each keeps its convolution in float.
    assert {f.node for f in found if f.rule in {"ORT10", "ORT11"}} >= convolutions
    assert "QLinearConv" not in optimized_ops(model, tmp_path)
    assert {f.rule for f in found if f.severity == "error"} == {"ORT06"}
    assert {f.rule for f in found if f.severity == "warning"} == {
        *("ORT09", "ORT10", "ORT11", "ORT12", "ORT13", "ORT16", "ORT23"),
    }
