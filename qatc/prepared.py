"""The graph module that `prepare` returns: an ordinary `GraphModule` that remembers what it was prepared for."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from qatc.arguments import batch_size
from qatc.config import QConfig
from qatc.errors import ConfigError
from qatc.float_state import FloatNames, begin_again_after, completed, unwrapped
from qatc.nested import Part, Path, joined, leaves
from qatc.quantizers.base import Quantizer, recomputing
from qatc.ranks import all_ranks, join
from qatc.report import Report, make_report
from qatc.schedule.state import follow
from qatc.targets import Target

_KEY = "qatc_prepared_for"


@dataclass(frozen=True)
class InputType:
    """A tensor among the inputs, as last seen: `path` starts at the argument's name, the batch is None in `shape`."""

    path: Path
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def name(self) -> str:
        """The path as text: `image`, `features.0`."""
        return joined(self.path)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type of its elements."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join('N' if size is None else str(size) for size in self.shape)}]"


InputTypes = tuple[InputType, ...]


@dataclass(frozen=True)
class PreparedFor:
    """What a model was prepared for; `inputs` are the tensors among its inputs, or None if none was seen.

    `float_names` are those of the float model's state, or None if they are not known.
    """

    target: Target
    config: QConfig
    inputs: InputTypes | None = None
    float_names: FloatNames | None = None

    @property
    def pow2(self) -> bool:
        """Whether every scale is a power of two: the configuration asks for it, or the target has no others."""
        return bool(self.config.pow2) or self.target.pow2


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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph, in the stage of its schedule; a training pass then makes the ranges of all ranks one."""
        if not torch.compiler.is_compiling():
            follow(self)
        result = super().__call__(*args, **kwargs)
        if self.training and all_ranks() and not recomputing():
            # Behind the pass, all at once: a collective a quantizer would cost more than the quantizers.
            moved = [m for m in self.modules() if isinstance(m, Quantizer) and m.moves]
            join(state for quantizer in moved for state in quantizer.observed())
        return result

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # torch hands this dict on to the submodules behind this call; it is never the caller's own
        if completed(state_dict, prefix, self):
            begin_again_after(self)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def __reduce__(self) -> tuple[Any, ...]:
        from qatc.checkpoint import pickled, unpickled  # noqa: PLC0415  (the checkpoint builds prepared models)

        return unpickled, pickled(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PreparedModel":
        # GraphModule's own copy makes buffers persistent, and forgets hooks and attributes.
        rebuild, state = self.__reduce__()
        twin: PreparedModel = rebuild(*copy.deepcopy(state, memo))
        memo[id(self)] = twin
        return twin


def prepared_in(model: nn.Module) -> PreparedModel:
    """Return the prepared model itself, taken out of what wraps it; a `ConfigError` if there is none."""
    found = unwrapped(model)
    if not isinstance(found, PreparedModel):
        raise ConfigError(f"{type(found).__name__} is not prepared", remedy="call qatc.prepare(model, ...) first")
    return found


def remember(model: PreparedModel, prepared_for: PreparedFor) -> None:
    """Note what a model was prepared for."""
    model.meta[_KEY] = prepared_for


def remember_inputs(model: PreparedModel, values: Mapping[str, Any]) -> None:
    """Note name, type and shape of every tensor among the model's arguments, given by name, for lowering.

    Dimension 0 is the batch where it has the size of the first tensor's, each time that inputs are noted.
    """
    if model.prepared_for is None:
        return
    arguments = [str(node.target).lstrip("*") for node in model.graph.nodes if node.op == "placeholder"]
    fixed = {known.path for known in model.prepared_for.inputs or () if None not in known.shape}
    batch = batch_size(values)
    found = []
    for name in arguments:
        for leaf in leaves(values.get(name), (Part(name, name),)):
            if isinstance(leaf.value, Tensor):
                shape: tuple[int | None, ...] = tuple(leaf.value.shape)
                if shape and shape[0] == batch and leaf.path not in fixed:
                    shape = (None, *shape[1:])
                found.append(InputType(leaf.path, str(leaf.value.dtype).removeprefix("torch."), shape))
    remember(model, replace(model.prepared_for, inputs=tuple(found)))
