"""Batches as a user's loader yields them, given one by one to a prepared model."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from qatc import ir
from qatc.arguments import Arguments, arguments_of
from qatc.errors import ConfigError
from qatc.float_state import unwrapped
from qatc.nested import map_tensors
from qatc.prepared import PreparedModel


def arguments_in(
    batches: Iterable[Any], model: nn.Module, steps: int | None, *, title: str, progress: bool
) -> Iterator[Arguments]:
    """Yield the model's arguments of up to `steps` batches, on its device, with a progress bar on the first rank.

    Raises:
        ConfigError: a batch that does not fit the model's arguments.

    """
    called = unwrapped(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    total = steps if steps is not None else _length(batches)
    for batch in tqdm(islice(batches, steps), title, total, disable=None if progress and _is_main() else True):
        yield map_tensors(lambda x: x.to(device), _arguments(batch, called))


def _arguments(batch: Any, model: nn.Module) -> Arguments:
    given = arguments_of(batch, model.forward)
    given.bound(model.forward)
    if isinstance(batch, Mapping) and given.args and isinstance(model, PreparedModel):
        first = next(node for node in model.graph.nodes if node.op == "placeholder")
        if ir.tensor_type(first) is not None:
            raise ConfigError(
                f"the batch is a dict of {sorted(map(str, batch))}, the model's argument {first.target} is a tensor",
                remedy=f"name the key {str(first.target)!r}, or pass batches as tensors or tuples",
            )
    return given


def _length(batches: Iterable[Any]) -> int | None:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        return None


def _is_main() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
