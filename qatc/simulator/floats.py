"""Operators in float, and those that only move values: ONNX Runtime runs each as a graph of one node."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnxruntime

from qatc.errors import SimulationError, first_line
from qatc.simulator.node import Node
from qatc.simulator.values import Array

Session = Any  # of ONNX Runtime, which has no types


def run_alone(node: Node, arrays: Sequence[Array | None], sessions: dict[object, Session]) -> list[Array]:
    """Return the outputs of one node, unoptimized; `sessions` keeps those that were made.

    Raises:
        SimulationError: the node has a graph inside, or ONNX Runtime cannot run it on these arrays.

    """
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.proto.attribute):
        raise SimulationError(
            f"{node.proto.op_type} has a graph inside, which is not simulated", where=node.name,
            remedy="simulate the part of the file before it",
        )  # fmt: skip
    given = {f"x{i}": a for i, a in enumerate(arrays) if a is not None}
    kinds = tuple((name, str(a.dtype), a.ndim) for name, a in given.items())
    key = (node.proto.SerializeToString(), kinds)
    try:
        if key not in sessions:
            sessions[key] = _session(node, given, len(arrays), node.opsets)
        found: list[Array] = sessions[key].run(None, given)
    except Exception as error:
        raise SimulationError(
            f"ONNX Runtime cannot run {node.proto.op_type} alone: {first_line(error)}", where=node.name,
            remedy="check the file with onnx.checker; sizes and types must fit",
        ) from error  # fmt: skip
    return found


def _session(node: Node, given: Mapping[str, Array], count: int, opsets: Mapping[str, int]) -> Session:
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.input[:]
    proto.input.extend(f"x{i}" if f"x{i}" in given else "" for i in range(count))
    inputs = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim
        )
        for name, a in given.items()
    ]  # fmt: skip
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    graph = onnx.helper.make_graph([proto], "node", inputs, outputs)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
