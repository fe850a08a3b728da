"""The tools that qatc is measured against, and qatc itself: an adapter a file, each imported alone, in a process alone.

Several of them change torch when they are imported, so no two belong into one process.
"""

import importlib
import importlib.metadata
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PEERS = ("modelopt", "torchao", "torch_ao_fx", "nncf", "aimet", "brevitas")
TOOLS = ("qatc", *PEERS)
POWER_OF_TWO = ("qatc", "brevitas")  # those that have scales of that kind


@dataclass(frozen=True)
class Widths:
    """What is asked of a tool: the bits of weights (a scale per output channel) and of activations (one scale).

    The layer named `stem` has 8 of both. `pow2` asks for scales that are powers of two.
    """

    weights: int = 8
    activations: int = 8
    stem: str | None = None
    pow2: bool = False

    @property
    def full(self) -> bool:
        """Whether these are the 8 bits that every tool has as its default."""
        return self == Widths()


class Unsupported(Exception):
    """The tool has no way to do what is asked."""


class Tool:
    """One tool as the benches use it; any method may raise, and the bench notes what was said.

    The order of calls is prepare, then train and evaluate in turns, finish before the last evaluate, then export.
    """

    package = ""

    def version(self) -> str:
        """Return name and version of the package."""
        return f"{self.package} {importlib.metadata.version(self.package)}"

    def prepare(self, model: nn.Module, calibration: Sequence[Tensor], widths: Widths) -> nn.Module:
        """Return it with fake quantization, ranges set from the batches [N, C, H, W]; `model` itself may change."""
        raise NotImplementedError

    def train(self, model: nn.Module) -> None:
        """Put it into training mode."""
        model.train()

    def groups(self, model: nn.Module, rate: float) -> list[dict[str, object]]:
        """Return the optimizer's parameter groups, each with its rate."""
        return [{"params": [p for p in model.parameters() if p.requires_grad], "lr": rate}]

    def advance(self, model: nn.Module, done: float) -> None:
        """Do what the tool's guide advises when this share of the training is done; called before every step."""

    def finish(self, model: nn.Module, batches: Sequence[Tensor]) -> None:
        """Do what the tool's guide advises when the training is over; the batches are training images."""

    def evaluate(self, model: nn.Module) -> None:
        """Put it into the mode whose outputs the exported file is to reproduce."""
        model.eval()

    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        """Write the ONNX file with QuantizeLinear and DequantizeLinear."""
        raise NotImplementedError


def load(name: str) -> Tool:
    """Return the tool of that name (one of `TOOLS`); imports it."""
    module = importlib.import_module(f"{__name__}.{name}")
    tool: Tool = module.TOOL
    return tool


def run_over(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Show the batches to the model, without gradients."""
    with torch.no_grad():
        for batch in batches:
            model(batch)


def export_onnx(model: nn.Module, example: Tensor, path: Path, *, dynamo: bool, **options: Any) -> None:
    """Write it by the new or the old exporter of torch.onnx, for batches of the example's size."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            options = {"opset_version": 18, "external_data": False, "verbose": False, **options}
        else:
            options = {"opset_version": 17, **options}
        torch.onnx.export(model, (example,), str(path), dynamo=dynamo, input_names=["x"], **options)
