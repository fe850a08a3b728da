"""The types of all tensors, from the types of the inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, fx

from qatc import ir
from qatc.api import float_mode
from qatc.errors import LoweringError, TraceError
from qatc.lowering.flatten_inputs import input_types
from qatc.lowering.open_sizes import check_batch, checked_open
from qatc.pipeline import Pass
from qatc.tracing.types import types_at, types_at_two_batches

_Types = dict[fx.Node, ir.TensorType | None]


@dataclass(frozen=True)
class RecordTypes(Pass):
    """Record the type of every tensor, of a graph whose inputs are flat and typed.

    A model that was prepared without example inputs knows its shapes only since it was calibrated. `batch` is the
    number of samples, None leaves it open; `dynamic` are the dimensions that are open besides, by input. What follows
    those is found by running the graph at twice their sizes.
    """

    batch: int | None = None
    dynamic: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    name: ClassVar[str] = "record-types"

    def run(self, gm: fx.GraphModule) -> bool:
        """Record the types; return whether one is another than before.

        Raises `LoweringError` where the model was traced for one size alone of those that are to be open or others.
        """
        before = _recorded(gm)
        check_batch(gm, self.batch)
        opened = checked_open(gm, self.dynamic)
        few, more = (_FEW, _MORE) if self.batch is None else (self.batch, self.batch)
        with float_mode(gm):  # types do not depend on ranges
            found = types_at_two_batches(gm, tuple(example(gm, few)), tuple(example(gm, more)))
            twice = self._types_at_twice(gm, few, opened) if opened else {n: kind for n, (kind, _) in found.items()}
        for node, (first, second) in found.items():
            third = twice.get(node)
            ranks = {len(kind.shape) for kind in (first, second, third) if kind is not None}
            if first is None or second is None or third is None or len(ranks) > 1:
                ir.set_tensor_type(node, first)
                continue
            dims = tuple(map(_dim, first.shape, second.shape, third.shape))
            if node.op == "placeholder":
                dims = tuple(_named(size, f"{node.target}_{d}") for d, size in enumerate(dims))
            ir.set_tensor_type(node, ir.TensorType(first.dtype, tuple(s if isinstance(s, int) else None for s in dims)))
            ir.set_dims(node, dims)
        return before != _recorded(gm)

    def _types_at_twice(self, gm: fx.GraphModule, batch: int, opened: Mapping[str, tuple[int, ...]]) -> _Types:
        given = [
            x.repeat([2 if d in opened.get(name, ()) else 1 for d in range(x.dim())])
            for name, x in zip(input_types(gm), example(gm, batch), strict=True)
        ]
        try:
            return types_at(gm, tuple(given))
        except TraceError as error:
            sizes = ", ".join(f"{name}.shape[{d}]" for name, dims in opened.items() for d in dims)
            raise LoweringError(
                f"the model does not run with twice the size of {sizes}: {error.what.partition(': ')[2] or error.what}",
                where=error.where,
                remedy="let the model's code follow the size, or leave it out of dynamic (--dynamic)",
            ) from error

    def __str__(self) -> str:
        return self.name


_FEW, _MORE = 2, 3


def _dim(few: int | None, more: int | None, twice: int | None) -> int | ir.BatchSize | ir.OpenSize:
    """Return a size from what it is for few samples, for more, and for few of twice the size."""
    assert few is not None
    assert more is not None
    if few != twice:
        return ir.OpenSize(few)
    factor = (more - few) // (_MORE - _FEW)
    return few if few == more else ir.BatchSize(factor, few - factor * _FEW)


def _named(size: int | ir.BatchSize | ir.OpenSize, name: str) -> int | ir.BatchSize | ir.OpenSize:
    return ir.OpenSize(size.example, name) if isinstance(size, ir.OpenSize) else size


def _recorded(gm: fx.GraphModule) -> list[ir.TensorType | None]:
    return [ir.tensor_type(node) for node in gm.graph.nodes if node.op != "output"]


def example(gm: fx.GraphModule, batch: int = _FEW) -> list[Tensor]:
    """Return zeros of the types of the inputs; not one sample, since exporters take a batch of 1 for a constant."""
    found = []
    for node in gm.graph.nodes:
        kind = ir.tensor_type(node) if node.op == "placeholder" else None
        if kind is not None:
            dims = ir.dims_of(node) or kind.shape
            sizes = [size.example if isinstance(size, ir.OpenSize) else size for size in dims]
            found.append(torch.zeros([size if isinstance(size, int) else batch for size in sizes], dtype=kind.dtype))
    return found
