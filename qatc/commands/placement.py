"""The arguments of `qatc lower` for another target than the model was prepared for."""

import argparse
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from qatc.errors import LoweringError
from qatc.lowering import LoweringOptions, replace_placement
from qatc.lowering.compare_simulations import simulated_sqnr
from qatc.lowering.flatten_inputs import input_types
from qatc.lowering.placement_changes import placement_changes, table
from qatc.lowering.verify import flat, known_inputs
from qatc.lowering.verify_data import Array, batches, checked_data
from qatc.prepared import PreparedModel
from qatc.targets import target_of


def add_placement(parser: argparse.ArgumentParser) -> None:
    """Add them to a parser."""
    parser.add_argument(
        "--replace-placement", action="store_true",
        help="move quantizers to where --target wants them, if the model was prepared for another",
    )  # fmt: skip


def is_for_another(model: PreparedModel, target: str | None) -> bool:
    """Say whether the model was prepared for another target than is asked for."""
    return model.prepared_for is not None and target not in (None, model.prepared_for.target.name)


def replaced(
    model: PreparedModel, target: str, calib: Mapping[str, Array] | None, data: Mapping[str, Array] | None,
    options: LoweringOptions,
) -> tuple[PreparedModel, str]:  # fmt: skip
    """Return the model placed for the target, and what to say of it: what moved, and how far its outputs did.

    Raises:
        LoweringError: there is no data to compare on, or its inputs have a form that arrays cannot give.

    """
    compared = calib if data is None else data
    if compared is None:
        raise LoweringError(
            "a model whose quantizers are moved is compared with the one that was trained, on data",
            remedy="give --verify data.npz, or --calib data.npz",
        )
    made = replace_placement(model, target, None if calib is None else list(_batches(model, calib)))
    assert model.prepared_for is not None
    old, new = model.prepared_for.target.name, target_of(target).name
    moved = table(placement_changes(model, made), old, new)
    sqnr = simulated_sqnr(model, made, compared, options)
    return made, f"{moved}\noutputs for {new} against those for {old}, both simulated: SQNR {sqnr:.1f} dB"


def _batches(model: PreparedModel, calib: Mapping[str, Array]) -> Iterator[dict[str, Tensor]]:
    inputs = (model.prepared_for and model.prepared_for.inputs) or ()
    if any(len(given.path) > 1 for given in inputs):
        raise LoweringError(
            "the model takes tensors in containers, which arrays by name do not give it",
            remedy="qatc.replace_placement(model, target, batches) in Python takes what the model takes",
        )
    types = input_types(flat(model))
    for feeds in batches(checked_data(types, calib, known_inputs(model)), types):
        yield {name: torch.from_numpy(array) for name, array in feeds.items()}
