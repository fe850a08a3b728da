"""The types of all tensors, from the types of the inputs."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from qatc import ir
from qatc.api import float_mode
from qatc.lowering.flatten_inputs import input_types
from qatc.pipeline import Pass
from qatc.tracing.types import merged, types_at_two_batches


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
            found = types_at_two_batches(gm, tuple(example(gm, _FEW)), tuple(example(gm, _MORE)))
        for node, (first, second) in found.items():
            if first is None or second is None or len(first.shape) != len(second.shape):
                ir.set_tensor_type(node, first)
            else:
                ir.set_tensor_type(node, merged(first, second))
                ir.set_dims(node, tuple(map(_dim, first.shape, second.shape)))
        return before != _types(gm)


_FEW, _MORE = 2, 3


def _dim(few: int | None, more: int | None) -> int | ir.BatchSize:
    """Return a size from what it is for few samples and for more."""
    assert few is not None
    assert more is not None
    factor = (more - few) // (_MORE - _FEW)
    return few if few == more else ir.BatchSize(factor, few - factor * _FEW)


def _types(gm: fx.GraphModule) -> list[ir.TensorType | None]:
    return [ir.tensor_type(node) for node in gm.graph.nodes if node.op != "output"]


def example(gm: fx.GraphModule, batch: int = _FEW) -> list[Tensor]:
    """Return zeros of the types of the inputs; not one sample, since exporters take a batch of 1 for a constant."""
    return [
        torch.zeros([batch if size is None else size for size in kind.shape], dtype=kind.dtype)
        for kind in input_types(gm).values()
    ]
