"""Small models written without a quantizer, so that their files compute what they do, and checked for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from qatc.config import config_of
from qatc.lowering import lowered_proto
from qatc.nested import tensors
from qatc.passes import DedupModules, FunctionalToModule
from qatc.prepared import PreparedFor, remember, remember_inputs
from qatc.runtimes import RUNTIMES
from qatc.targets import target_of
from qatc.trace import trace


class Function(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        return self.function(x) if y is None else self.function(x, y)


def float_file(model: nn.Module, *inputs: Tensor) -> onnx.ModelProto:
    """Return the file of a model that takes x, or x and y."""
    gm = trace(model.eval(), inputs)
    for step in (DedupModules(), FunctionalToModule()):
        step.run(gm)
    remember(gm, PreparedFor(target_of("onnxruntime"), config_of("w8a8")))
    remember_inputs(gm, dict(zip("xy", inputs, strict=False)))
    return lowered_proto(gm).proto


def check_file(proto: onnx.ModelProto, model: nn.Module, *inputs: Tensor, tolerance: float = 0.0) -> None:
    """Check that the file gives what the model does, to a part of the greatest value."""
    read = {value.name for value in proto.graph.input}
    feeds = {name: x.numpy() for name, x in zip("xy", inputs, strict=False) if name in read}
    with torch.no_grad():
        expected = [x.numpy() for _, x in tensors(model.eval()(*inputs))]
    for found, wanted in zip(RUNTIMES["onnxruntime-unoptimized"].session(proto)(feeds).values(), expected, strict=True):
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        if tolerance:
            np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
        else:
            np.testing.assert_array_equal(found, wanted)


def ops(proto: onnx.ModelProto) -> list[str]:
    """Return the operators of a file, in order."""
    return [node.op_type for node in proto.graph.node]
