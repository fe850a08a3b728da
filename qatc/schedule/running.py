"""A schedule at work: one call a step moves the model through its stages."""

import logging
from typing import Any

from torch import nn
from torch.optim import Optimizer

from qatc.errors import ConfigError
from qatc.prepared import PreparedModel
from qatc.quantizers.base import Stage
from qatc.recording import begin_weights, settle
from qatc.schedule.learning_rate import scale_learning_rate
from qatc.schedule.plan import Plan
from qatc.schedule.state import NAME, ScheduleState, apply, state_of

log = logging.getLogger("qatc")


class RunningSchedule:
    """What `Schedule.start` returns. Only `step()` moves it; `train()`, `eval()` and evaluations do not."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None, plan: Plan, restart: bool = False) -> None:
        self.plan = plan
        self._models = [module for module in model.modules() if isinstance(module, PreparedModel)]
        if not self._models:
            raise ConfigError(
                f"there is no prepared model in the {type(model).__name__}", remedy="give what qatc.prepare returned"
            )
        self._states = [_state(prepared) for prepared in self._models]
        for prepared, state in zip(self._models, self._states, strict=True):
            state.drive(prepared, plan, 0 if restart else int(state.step))
        self._changes = plan.steps
        if optimizer is not None:
            scale_learning_rate(optimizer, self._lr_scale)
        log.info("schedule: %s at step %d", self.stage, self.count)

    @property
    def count(self) -> int:
        """The steps made."""
        return self._states[0].count()

    @property
    def stage(self) -> Stage:
        """What the next step does: `float`, `record`, `follow`, `clamp` or `quantize`."""
        return self.plan.stage(self.count)

    def step(self) -> None:
        """Count a step that the optimizer made; where a stage ends, begin the next.

        Raises:
            CalibrationError: recording ends, and what it saw is not finite.

        """
        for prepared, state in zip(self._models, self._states, strict=True):
            made = state.count() + 1
            if made in self._changes:
                self._change(prepared, made)
            state.set_count(made)

    def _change(self, prepared: PreparedModel, step: int) -> None:
        before, after = self.plan.stage(step - 1), self.plan.stage(step)
        if before == "record" != after:
            settle(prepared)
        apply(prepared, self.plan, step)
        if after in _QUANTIZED and before not in _QUANTIZED:
            begin_weights(prepared)
        if before != after:
            log.info("schedule: %s from step %d on", after, step)

    def _lr_scale(self) -> float:
        return self.plan.lr_scale if self.stage == "quantize" else 1.0

    def __getstate__(self) -> Any:
        raise TypeError("a running schedule is not pickled: its state is in the model's state_dict; start it anew")


_QUANTIZED = ("clamp", "quantize")


def _state(model: PreparedModel) -> ScheduleState:
    found = state_of(model)
    if found is None:
        raise ConfigError(f"the model has lost its {NAME}", remedy="prepare it with this version of qatc")
    return found
