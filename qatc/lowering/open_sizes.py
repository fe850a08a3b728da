"""Which sizes of inputs the file can fix or leave open: those that tracing left open."""

from collections.abc import Mapping

from torch import fx

from qatc import ir
from qatc.errors import LoweringError
from qatc.lowering.flatten_inputs import input_name, input_types
from qatc.prepared import PreparedModel


def checked_open(gm: fx.GraphModule, dynamic: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
    """Return the dimensions that are to be open, by the name of a flat input.

    Raises `LoweringError` for what is no dimension of an input, or a size that the model's own code decided on while it
    was traced: the graph is that of the example's size.
    """
    types = input_types(gm)
    for name, dims in dynamic.items():
        if name not in types:
            raise LoweringError(f"no input is named {name!r}", remedy=f"inputs: {', '.join(types)}")
        rank = len(types[name].shape)
        beyond = [dim for dim in dims if dim >= rank]
        if beyond:
            raise LoweringError(f"{name} has {rank} dimensions, no dimension {beyond[0]}", remedy="count from 0")
        for dim in dims:
            _check_size(gm, name, dim)
    return dynamic


def check_batch(gm: fx.GraphModule, batch: int | None) -> None:
    """Raise a `LoweringError` if the file is to have another batch than the one that the graph is made for."""
    shapes = [kind.shape for kind in input_types(gm).values() if kind.shape]
    fixed = [shape[0] for shape in shapes]
    if batch is None or None in fixed or batch in fixed:
        return
    note = next((note for note in ir.notes(gm) if note.startswith("the batch is fixed")), "no input's batch is open")
    raise LoweringError(
        f"the batch cannot be {batch}: {note}",
        remedy="prepare the model with example inputs of that batch, or leave batch out (--batch)",
    )


def _check_size(gm: fx.GraphModule, name: str, dim: int) -> None:
    made_for = gm.prepared_for if isinstance(gm, PreparedModel) else None
    inputs = (made_for and made_for.inputs) or ()
    paths = [given for given in inputs if input_name(given.path) == name]
    for given in paths:
        argument = given.path[0].name
        for note in ir.notes(gm):
            on_it = note.startswith("specialised on ") and f"{given.name}.shape[{dim}]" in note
            on_all = note.startswith("sizes of ") and argument in note.partition(" other than")[0].split()
            if on_it or on_all:
                raise LoweringError(
                    f"{name}.shape[{dim}] cannot stay open: {note}",
                    remedy="let the model follow the size (in an export: dynamic_shapes), or leave it out of dynamic "
                    "(--dynamic)",
                )
