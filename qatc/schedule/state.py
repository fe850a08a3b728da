"""Where a model is in its schedule: a counter among its tensors, so that every way of copying a model carries it."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from qatc.modules.fused import Fused
from qatc.quantizers.base import Quantizer
from qatc.schedule.plan import Plan

# The name of the state in a prepared model.
NAME = "qatc_schedule"


class ScheduleState(nn.Module):
    """The steps made, as a buffer, and the plan, as plain data.

    The host counts too and writes the buffer without ever waiting for it. It reads it only after something else wrote
    it: `load_state_dict`, or what copies a model's tensors one by one (the averages of EMA).
    """

    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.plan: Plan | None = None
        self._undriven()

    def _undriven(self) -> None:
        self._count = 0
        self._seen: tuple[int, int] | None = None
        self._model: weakref.ref[nn.Module] | None = None

    def drive(self, model: nn.Module, plan: Plan, count: int) -> None:
        """Make `count` and `plan` those of the model, from now on moved by a running schedule alone."""
        self.plan, self._model = plan, weakref.ref(model)
        self.set_count(count)
        apply(model, plan, count)

    @property
    def stale(self) -> bool:
        """Whether the buffer may have been written by others since it was read."""
        # Broadcasts of DistributedDataParallel write what is there already, in every step.
        return self._seen != self._written() if self._model is None else self._seen is None

    def count(self) -> int:
        """Return the steps made."""
        if self.stale:
            self._count = int(self.step)
            self._seen = self._written()
        return self._count

    def set_count(self, count: int) -> None:
        """Write the steps made."""
        self._count = count
        self.step.fill_(count)
        self._seen = self._written()

    def _written(self) -> tuple[int, int]:
        return id(self.step), self.step._version

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if f"{prefix}step" not in state_dict:  # that of a float model
            return
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._seen = None
        model = None if self._model is None else self._model()
        if model is not None and self.plan is not None:
            apply(model, self.plan, self.count())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None, "_seen": None}


def state_of(model: nn.Module) -> ScheduleState | None:
    """Return the state of a prepared model; None where it has none."""
    found = model._modules.get(NAME)
    return found if isinstance(found, ScheduleState) else None


def follow(model: nn.Module) -> None:
    """Put a prepared model into the stage of the step that it is at, if its counter was written by others."""
    state = state_of(model)
    if state is not None and state.plan is not None and state.stale:
        apply(model, state.plan, state.count())


def apply(model: nn.Module, plan: Plan, step: int) -> None:
    """Put every part of the model into the stage of this step; what the plan does not speak of stays as it is."""
    stage = plan.stage(step)
    for module in model.modules():
        if isinstance(module, Quantizer):
            module.stage = stage
            if plan.freeze_ranges is not None:
                module.observing = step < plan.freeze_ranges
        elif isinstance(module, Fused) and plan.freeze_bn is not None:
            module.bn_frozen = step >= plan.freeze_bn
