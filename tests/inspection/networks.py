"""Small networks whose passes do something to look at, and the steps that they go through."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import qatc
from qatc.inspection import MANIFEST, GraphData
from tests.models import conv, images, randomise


class Residual(nn.Module):
    """A convolution with BatchNorm and ReLU, a sum, and an Identity: as in a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu = conv(3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(inplace=True)
        self.down = nn.Identity()

    def forward(self, x: Tensor) -> Any:
        y = self.relu(self.bn(self.conv(x)))
        y += self.down(x)
        return self.relu(y)


class Pieces(nn.Module):
    """A tensor split in two."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Any:
        a, b = torch.chunk(self.conv(x), 2, dim=1)
        return a.relu() + b


def calibrated(model: nn.Module, target: str = "onnxruntime", config: Any = "w8a8") -> qatc.PreparedModel:
    """Return the model prepared, with ranges."""
    gm = qatc.prepare(randomise(model), images(), target, config)
    qatc.calibrate(gm, [images(seed=1)], progress=False)
    return gm


def manifest(folder: Path) -> Any:
    """Return the list of a dump folder."""
    return json.loads((folder / MANIFEST).read_text())


def steps(folder: Path) -> tuple[list[tuple[int, GraphData]], list[str]]:
    """Return the graphs of a dump folder with the numbers of their steps, and the names of all steps."""
    listed = manifest(folder)["steps"]
    graphs = [(s["index"], json.loads((folder / s["graph"]).read_text())) for s in listed if s["graph"]]
    return graphs, [step["name"] for step in listed]
