"""What the callbacks share: recording once, and a schedule that follows a trainer's count of steps."""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from qatc.api import calibrate
from qatc.recording import quantizers
from qatc.schedule import Schedule
from qatc.schedule.running import RunningSchedule

# Statistics first, so that the ranges can still follow what the frozen ones give.
DEFAULT = Schedule(freeze_bn=0.6, freeze_ranges=0.8)


def calibrated(model: nn.Module, batches: Iterable[Any], schedule: Schedule) -> None:
    """Record ranges, unless the schedule does, or all are known: from a checkpoint, or because the user did."""
    if schedule.record is None and not all(quantizer.ready for _, quantizer in quantizers(model)):
        calibrate(model, batches)


def started(
    schedule: Schedule, model: nn.Module, optimizer: Optimizer, total_steps: int, epochs: int
) -> RunningSchedule:
    """Return the schedule of a run of that many steps of the optimizer."""
    inner = getattr(optimizer, "optimizer", optimizer)  # accelerate and Lightning wrap it
    return schedule.start(model, inner, steps_per_epoch=max(1, total_steps // max(1, epochs)), total_steps=total_steps)


def follow(running: RunningSchedule, steps: int) -> None:
    """Step until as many steps are counted as the trainer made."""
    while running.count < steps:
        running.step()
