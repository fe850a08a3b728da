"""What the demo and the benches measure of ONNX files: sizes, outputs, latency, what is left in float."""

import logging
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

_LEVELS = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
WEIGHTED = frozenset({"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})


def export_float(model: nn.Module, example: Tensor, path: Path) -> None:
    """Write the float model as torch.onnx exports it, with a dynamic batch, weights inside the file."""
    batch = torch.export.Dim("batch")
    logger = logging.getLogger("torch.onnx")
    logger.setLevel(logging.ERROR)  # it speaks of torchvision's operators, whether or not the model has any
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its own internals
        program = torch.onnx.export(
            model.eval(), (example,), dynamo=True, verbose=False, dynamic_shapes=({0: batch},), opset_version=18
        )
    assert program is not None
    program.save(path, external_data=False)


def session(
    path: Path, level: str = "all", optimized: Path | None = None, threads: int = 1
) -> onnxruntime.InferenceSession:
    """Return a CPU session; `optimized` is where to write the graph that ONNX Runtime makes of it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = _LEVELS[level]
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(of: onnxruntime.InferenceSession, images: Tensor) -> Tensor:
    """Return the session's first output."""
    return torch.from_numpy(of.run(None, {of.get_inputs()[0].name: images.numpy()})[0])


def seconds(
    calls: Sequence[Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the median time of each call; they take turns, so that what slows the machine slows all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    for _ in range(repeats):
        for call, found in zip(calls, times, strict=True):
            start = clock()
            call()
            found.append(clock() - start)
    return [statistics.median(found) for found in times]


def left_in_float(path: Path) -> Counter[str]:
    """Return how many Conv, Gemm and MatMul ONNX Runtime's extended optimization leaves in float, by operator."""
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder, "optimized.onnx")
        session(path, "extended", optimized)
        graph = onnx.load(optimized).graph
    return Counter(node.op_type for node in graph.node if node.op_type in WEIGHTED)
