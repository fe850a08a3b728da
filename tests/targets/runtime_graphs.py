"""What a runtime makes of a textual graph: the ops of its optimized form, their precisions, and its outputs."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
from numpy.typing import NDArray

from tests.targets.lint_graphs import parse

_random = np.random.default_rng(0)
_SCALES = (2.0 ** -_random.integers(4, 8, 16) * _random.uniform(0.6, 1, 16)).astype(np.float32)
# Numbers in place of the ones and zeros of lint_graphs, so that a wrong scale or axis shows in the outputs.
NUMBERS: dict[str, NDArray[np.generic]] = {
    "u": np.array(0, np.uint8),
    "u128": np.array(128, np.uint8),
    "u100": np.array(100, np.uint8),
    "u101": np.array(101, np.uint8),
    "ws": _SCALES,
    "bs": np.float32(0.5) * _SCALES,
    "w": _random.integers(-127, 128, (16, 16, 1, 1)).astype(np.int8),
    "wf": _random.standard_normal((16, 16, 1, 1)).astype(np.float32),
    "wt": _random.integers(-127, 128, (16, 16, 2, 2)).astype(np.int8),
    "m": _random.integers(-127, 128, (16, 16)).astype(np.int8),
    "mf": _random.standard_normal((16, 16)).astype(np.float32),
    "b": _random.standard_normal(16).astype(np.float32),
    "bi": _random.integers(-1000, 1000, 16).astype(np.int32),
    "zero": np.array(0, np.float32),
    "six": np.array(6, np.float32),
    "s6": np.array(6 / 255, np.float32),
    "one": np.array(1, np.float32),
    "axes": np.array([2, 3]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "twice": np.array([1, 1, 2, 2], np.float32),
    "first": np.array([0]),
}


def numbered(body: str, x: str, y: str, opset: int = 18, **constants: NDArray[np.generic]) -> onnx.ModelProto:
    """Return the graph with numbers for its constants."""
    return parse(body, x, y, opset, **(NUMBERS | constants))


def _session(model: onnx.ModelProto, optimized: Path | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def inputs(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """Return seeded values for the graph's inputs, which have sizes."""
    random = np.random.default_rng(1)
    sizes = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in model.graph.input}
    return {name: (4 * random.standard_normal(shape)).astype(np.float32) for name, shape in sizes.items()}


def optimized_ops(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Ops of the graph that ONNX Runtime runs."""
    _session(model, folder / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def differing(model: onnx.ModelProto, folder: Path) -> float:
    """Share of output values that ONNX Runtime computes otherwise when it optimizes than as the file is written."""
    feeds = inputs(model)
    (written,) = _session(model, None).run(None, feeds)
    (optimized,) = _session(model, folder / "optimized.onnx").run(None, feeds)
    return float((np.abs(written - optimized) > 1e-3).mean())


def openvino_run(model: onnx.ModelProto) -> tuple[dict[str, str], float]:
    """Return the precision of each layer type that OpenVINO runs, and the share of values that differ as written."""
    runtime = openvino.Core()
    properties = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = runtime.compile_model(runtime.read_model(model.SerializeToString()), "CPU", properties)
    precisions: dict[str, str] = {}
    for layer in compiled.get_runtime_model().get_ordered_ops():
        info = layer.get_rt_info()
        precisions[info["layerType"].value] = info["runtimePrecision"].value
    feeds = inputs(model)
    (written,) = _session(model, None).run(None, feeds)
    found = next(iter(compiled(feeds).values()))
    return precisions, float((np.abs(written - found) > 1e-3).mean())
