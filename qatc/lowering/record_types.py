"""The types of all tensors, from the types of the inputs."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from qatc import ir
from qatc.api import float_mode
from qatc.lowering.flatten_inputs import input_types
from qatc.pipeline import Pass
from qatc.trace import record_types


@dataclass(frozen=True)
class RecordTypes(Pass):
    """Record the type of every tensor, of a graph whose inputs are flat and typed.

    A model that was prepared without example inputs knows its shapes only since it was calibrated.
    """

    name: ClassVar[str] = "record-types"

    def run(self, gm: fx.GraphModule) -> bool:
        """Record the types; return whether one is another than before."""
        before = _types(gm)
        with float_mode(gm):  # types do not depend on ranges
            record_types(gm, tuple(example(gm)), tuple(example(gm, batch=3)))
        return before != _types(gm)


def _types(gm: fx.GraphModule) -> list[ir.TensorType | None]:
    return [ir.tensor_type(node) for node in gm.graph.nodes if node.op != "output"]


def example(gm: fx.GraphModule, batch: int = 2) -> list[Tensor]:
    """Return zeros of the types of the inputs; not one sample, since exporters take a batch of 1 for a constant."""
    return [
        torch.zeros([batch if size is None else size for size in kind.shape], dtype=kind.dtype)
        for kind in input_types(gm).values()
    ]
