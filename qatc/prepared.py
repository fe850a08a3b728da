"""The graph module that `prepare` returns: an ordinary `GraphModule` that remembers what it was prepared for."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx

from qatc.report import Report, make_report
from qatc.spec import QConfig
from qatc.targets import Target

_KEY = "qatc_prepared_for"

InputTypes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class PreparedFor:
    """What a model was prepared for; `inputs` are types and shapes as last seen, or None if none was."""

    target: Target
    config: QConfig
    inputs: InputTypes | None = None


class PreparedModel(fx.GraphModule):
    """A graph that trains, copies and pickles like any module; `report` says what is quantized, and what is not."""

    # Few members of its own: each is a name that a user's submodule cannot have.

    @property
    def report(self) -> Report:
        """Every op of the model: quantized how, or float and why."""
        return make_report(self)

    @property
    def prepared_for(self) -> PreparedFor | None:
        """Target, configuration and inputs that quantizers were placed for; None before they are."""
        found: PreparedFor | None = self.meta.get(_KEY)
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        from qatc.checkpoint import pickled, unpickled  # noqa: PLC0415  (the checkpoint builds prepared models)

        return unpickled, pickled(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PreparedModel":
        # GraphModule's own copy makes buffers persistent, and forgets hooks and attributes.
        rebuild, state = self.__reduce__()
        twin: PreparedModel = rebuild(*copy.deepcopy(state, memo))
        memo[id(self)] = twin
        return twin


def remember(model: PreparedModel, prepared_for: PreparedFor) -> None:
    """Note what a model was prepared for."""
    model.meta[_KEY] = prepared_for


def remember_inputs(model: PreparedModel, inputs: Iterable[Tensor]) -> None:
    """Note types and shapes of the inputs, for lowering."""
    if model.prepared_for is not None:
        types = tuple((str(x.dtype).removeprefix("torch."), tuple(x.shape)) for x in inputs)
        remember(model, replace(model.prepared_for, inputs=types))
