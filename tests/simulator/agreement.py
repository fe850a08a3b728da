"""The simulator beside ONNX Runtime: how many codes of a lowered file differ."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import qatc
from qatc import simulator
from qatc.lowering import LoweringOptions, lowered_proto
from qatc.lowering.verify import code_tensors, fed_with_codes, with_outputs
from qatc.runtimes import RUNTIMES


class Agreement(NamedTuple):
    """Codes compared, those that differ, and by how much at most; how far the file's outputs are apart."""

    codes: int
    differing: int
    step: int
    outputs: float


def agreement(
    proto: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]], runtime: str = "onnxruntime", per_op: bool = False
) -> Agreement:
    """Run the file in both, end to end, or each op in ONNX Runtime fed with the simulator's codes."""
    codes, outputs = list(code_tensors(proto)), [o.name for o in proto.graph.output]
    ours = simulator.run(proto, feeds, [*codes, *outputs])
    cut = fed_with_codes(proto, code_tensors(proto)) if per_op else with_outputs(proto, code_tensors(proto))
    theirs = RUNTIMES[runtime].session(cut)({**feeds, **{f"{name}:simulated": ours[name] for name in codes}})
    steps = [np.abs(ours[name].astype(np.int64) - theirs[name]) for name in codes]
    apart = [np.abs(ours[name].astype(np.float64) - theirs[name]).max(initial=0.0) for name in outputs]
    assert all(ours[name].dtype == theirs[name].dtype for name in (*codes, *outputs))
    return Agreement(
        sum(step.size for step in steps),
        sum(int(np.count_nonzero(step)) for step in steps),
        max(int(step.max(initial=0)) for step in steps),
        max(float(a) for a in apart),
    )


def lowered(
    model: nn.Module, x: Any, target: str = "onnxruntime", config: Any = "w8a8", **options: Any
) -> onnx.ModelProto:
    """Return the file of a model, calibrated on its example."""
    torch.manual_seed(0)
    prepared = qatc.prepare(model.eval(), x, target, config)
    qatc.calibrate(prepared, [x], progress=False)
    return lowered_proto(prepared, options=LoweringOptions(**options)).proto


def fed(proto: onnx.ModelProto, *arrays: Tensor) -> dict[str, NDArray[Any]]:
    """Return the arrays by the names of the file's inputs."""
    return {i.name: a.numpy() for i, a in zip(proto.graph.input, arrays, strict=True)}
