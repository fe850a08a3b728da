"""A small network with every kind of op that lowering rewrites, and its calibrated forms."""

from collections import Counter
from functools import cache
from pathlib import Path

import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qatc


class Everything(nn.Module):
    """Conv+BN+ReLU, a lone BatchNorm, a residual, a concat, depthwise+ReLU6, resize, spatial mean, dropout, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.pre = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.relu6 = nn.ReLU6()
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.relu(self.bn(self.conv(x))), 2)
        y = self.body(F.relu(self.pre(x)))
        z = self.relu(x + y)
        z = torch.cat([z, F.avg_pool2d(z, 3, 1, 1)], 1)
        z = F.interpolate(self.relu6(self.depthwise(z)), scale_factor=2.0)
        out: Tensor = self.head(self.drop(torch.flatten(z.mean((2, 3)), 1)))
        return out


def data(n: int = 8) -> Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def everything() -> Everything:
    torch.manual_seed(0)
    model = Everything()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.3)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


@cache
def calibrated(target: str, config: str) -> qatc.PreparedModel:
    """Return a calibrated model; shared between tests, so not to be changed."""
    model = qatc.prepare(everything(), data(), target=target, config=config)
    qatc.calibrate(model, [data()], progress=False)
    return model.eval()


def optimized_ops(proto: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Return the operators of the graph that ONNX Runtime makes of a file, each with its number."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)
