"""The main ways to write an op, lowered: ONNX Runtime runs the products around them in integers, and agrees."""

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.lowering import lowered_proto, verify
from tests.models import conv, images, randomise
from tests.test_written_forms import FORMS, Written

# Between two convolutions, none of which may fall to float.
INTEGER = (
    "a slice", "a number", "chunks of different sizes", "index_select", "expand", "repeat", "repeat_interleave",
    "pixel_shuffle", "stack at the end", "clamp to a range", "quick_gelu", "softmax in float", "x[:, 1:] = y", "pad",
    "amax", "rrelu", "avg_pool2d with a divisor", "einsum with a sum",
)  # fmt: skip


class Between(nn.Module):
    """The op between two layers: a convolution where it gives images, a Linear otherwise."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.written = Written(FORMS[name])
        shape = self.written(images()).shape
        self.behind = conv(shape[1], 3, 1) if len(shape) == 4 else nn.Linear(shape[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.behind(self.written(x))
        return y


@pytest.mark.parametrize("name", INTEGER)
def test_layers_around_it_run_in_integers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = qatc.prepare(randomise(Between(name)).eval(), images())
    qatc.calibrate(model, [images()], progress=False)
    lowered = lowered_proto(model)
    check = verify(model, lowered, {"x": images(6, 3, 8, 8, seed=3).numpy()})
    assert check.passed, str(check)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(lowered.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert found.isdisjoint({"Conv", "FusedConv", "Gemm", "MatMul", "FusedMatMul"})
