"""Hugging Face's Trainer: calibrate, step the schedule and save around its own loop."""

import os
from collections.abc import Iterable
from itertools import islice
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

import qatc
from qatc.errors import QatcError
from qatc.float_state import unwrapped
from qatc.integrations.progress import DEFAULT, calibrated, follow, started
from qatc.prepared import PreparedModel
from qatc.schedule import Schedule


class QATCallback(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Trains the prepared model that the Trainer was given with quantization.

    The Trainer takes its parameters when it is built, so give it `qatc.prepare(model, ...)`; and where the model does
    not compute its loss, `compute_loss_func` and the names of the labels, `TrainingArguments(label_names=["labels"])`.
    Ranges that are not known when training starts are recorded from `batches`, or from the first of the training
    loader.

    Args:
        schedule: when the run records, quantizes and freezes, in steps of the optimizer.
        calibration_batches: how many batches to record.
        batches: what to record instead of the training loader's batches, as `qatc.calibrate` takes them.
        save: where rank 0 writes the model when training ends (`qatc.save`).

    Raises:
        QatcError: when training begins, where the Trainer's model was not prepared.

    """

    def __init__(
        self,
        *,
        schedule: Schedule = DEFAULT,
        calibration_batches: int = 16,
        batches: Iterable[Any] | None = None,
        save: str | os.PathLike[str] | None = None,
    ) -> None:
        self.schedule, self.calibration_batches = schedule, calibration_batches
        self.batches, self.save = batches, save

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Record ranges where none are known, and start the schedule, or go on with it."""
        if not isinstance(unwrapped(given["model"]), PreparedModel):
            raise QatcError(
                f"the Trainer's model is a {type(given['model']).__name__}, not a prepared one",
                remedy="build the Trainer with qatc.prepare(model, example_inputs)",
            )
        batches = given["train_dataloader"] if self.batches is None else self.batches
        calibrated(given["model"], islice(batches, self.calibration_batches), self.schedule)
        epochs = round(args.num_train_epochs)
        self.running = started(self.schedule, given["model"], given["optimizer"], state.max_steps, epochs)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **given: Any
    ) -> None:
        """Step the schedule."""
        follow(self.running, state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **given: Any
    ) -> None:
        """Write the file."""
        inner = unwrapped(model)
        if self.save is not None and state.is_world_process_zero and isinstance(inner, PreparedModel):
            _save(inner, self.save)


def _save(model: PreparedModel, path: str | os.PathLike[str]) -> None:
    # For mixed precision accelerate puts functions on the model itself, which are no data.
    names = ("forward", "_original_forward")
    put_on = {name: model.__dict__.pop(name) for name in names if name in model.__dict__}
    try:
        qatc.save(model, path)
    finally:
        model.__dict__.update(put_on)
