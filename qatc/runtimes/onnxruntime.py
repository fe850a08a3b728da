"""ONNX Runtime on the CPU, with its graph optimizations (integer kernels) and without (each node as it is written)."""

from functools import partial

import numpy as np
import onnx
import onnxruntime

from qatc.runtimes.runtime import Arrays, Runtime, Session

_LEVELS = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}


def start(proto: onnx.ModelProto, level: str) -> Session:
    """Return a session of the model on the CPU provider at an optimization level, "extended" or "disabled"."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _LEVELS[level]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {i.name: i.type for i in session.get_inputs()}
    outputs = [o.name for o in session.get_outputs()]

    def run(feeds: Arrays) -> Arrays:
        fed = {
            name: array.astype(np.float16) if inputs[name] == "tensor(float16)" else array
            for name, array in feeds.items()
            if name in inputs
        }
        return dict(zip(outputs, session.run(outputs, fed), strict=True))

    return run


ONNXRUNTIME = Runtime(
    name="onnxruntime",
    summary="ONNX Runtime, CPU: Q/DQ fused to integer kernels",
    package="onnxruntime",
    start=partial(start, level="extended"),
)
ONNXRUNTIME_UNOPTIMIZED = Runtime(
    name="onnxruntime-unoptimized",
    summary="ONNX Runtime, CPU, without graph optimization: every node as it is written, Q/DQ around float32 ops",
    package="onnxruntime",
    start=partial(start, level="disabled"),
)
