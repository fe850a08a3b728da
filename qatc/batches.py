"""Batches as a user's loader yields them, given one by one to a prepared model."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from qatc import ir
from qatc.arguments import Arguments, arguments_of
from qatc.errors import CalibrationError, ConfigError
from qatc.float_state import unwrapped
from qatc.nested import map_tensors, tensors
from qatc.prepared import PreparedModel


def arguments_in(
    batches: Iterable[Any], model: nn.Module, steps: int | None, *, title: str, progress: bool
) -> Iterator[Arguments]:
    """Yield the model's arguments of up to `steps` batches, on its device, with a progress bar on the first rank.

    Raises:
        ConfigError: a batch that does not fit the model's arguments.
        CalibrationError: a batch without a sample.

    """
    if isinstance(batches, torch.Tensor | Mapping):
        raise ConfigError(
            "one batch was passed, not several to go through", where=title, remedy="put it in a list: [batch]"
        )
    called = unwrapped(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    total = steps if steps is not None else _length(batches)
    bar = tqdm(islice(batches, steps), title, total, disable=None if progress and _is_main() else True)
    for index, batch in enumerate(bar):
        given = map_tensors(lambda x: x.to(device), _arguments(batch, called))
        if any(not tensor.numel() for _, tensor in tensors(given)):
            raise CalibrationError(
                f"batch {index} has no samples",
                where=title,
                remedy="leave it out, as a loader does with drop_last=True",
            )
        yield given


def _arguments(batch: Any, model: nn.Module) -> Arguments:
    given = arguments_of(batch, model.forward)
    bound = given.bound(model.forward)
    if isinstance(model, PreparedModel):
        _check_tensors(model, bound)
    if isinstance(batch, Mapping) and given.args and isinstance(model, PreparedModel):
        first = next(node for node in model.graph.nodes if node.op == "placeholder")
        if ir.tensor_type(first) is not None:
            raise ConfigError(
                f"the batch is a dict of {sorted(map(str, batch))}, the model's argument {first.target} is a tensor",
                remedy=f"name the key {str(first.target)!r}, or pass batches as tensors or tuples",
            )
    return given


def _check_tensors(model: PreparedModel, bound: Mapping[str, Any]) -> None:
    """Refuse a batch with something else in the place of a tensor."""
    for node in model.graph.nodes:
        name = str(node.target)
        known = node.op == "placeholder" and ir.tensor_type(node) is not None and name in bound
        if known and not isinstance(bound[name], torch.Tensor | Mapping):
            raise ConfigError(
                f"the batch has {type(bound[name]).__name__} for {name}, which is a tensor",
                remedy="pass batches as prepare's example_inputs were",
            )


def _length(batches: Iterable[Any]) -> int | None:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        return None


def _is_main() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
