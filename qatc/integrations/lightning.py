"""Lightning: prepare, calibrate, step the schedule and save around a Trainer's own loop."""

import os
from collections.abc import Iterable
from itertools import islice
from typing import Any

from torch import nn

import qatc
from qatc.integrations.progress import DEFAULT, calibrated, follow, started
from qatc.prepared import PreparedModel
from qatc.schedule import Schedule

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ModuleNotFoundError:
    from pytorch_lightning import Callback, LightningModule, Trainer


class QATCallback(Callback):  # type: ignore[misc]  # Lightning is not typed here
    """Trains the network at `module.<attribute>` with quantization, between Lightning's own hooks.

    It is prepared in `setup`, before optimizers and strategies see its parameters, unless it already is; so a
    checkpoint of such a run (`ckpt_path`) restores ranges too. Ranges that are not known when training starts are
    recorded from `batches`, or from the first of the training loader. `forward` is not wrapped.

    Args:
        attribute: the network's name in the LightningModule.
        schedule: when the run records, quantizes and freezes, in steps of the (first) optimizer.
        calibration_batches: how many batches to record.
        batches: what to record instead of the training loader's batches, as `qatc.calibrate` takes them.
        save: where rank 0 writes the model when training ends (`qatc.save`).
        prepare: what `qatc.prepare` takes beside the network: example_inputs, target, config.

    """

    def __init__(
        self,
        attribute: str = "model",
        *,
        schedule: Schedule = DEFAULT,
        calibration_batches: int = 16,
        batches: Iterable[Any] | None = None,
        save: str | os.PathLike[str] | None = None,
        **prepare: Any,
    ) -> None:
        self.attribute, self.batches, self.save = attribute, batches, save
        self.schedule, self.calibration_batches, self.prepare = schedule, calibration_batches, prepare

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the prepared network in the float one's place."""
        network: nn.Module = getattr(pl_module, self.attribute)
        if not isinstance(network, PreparedModel):
            setattr(pl_module, self.attribute, qatc.prepare(network, **self.prepare))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record ranges where none are known, and start the schedule, or go on with it."""
        network = getattr(pl_module, self.attribute)
        batches = trainer.train_dataloader if self.batches is None else self.batches
        calibrated(network, islice(batches, self.calibration_batches), self.schedule)
        steps, epochs = int(trainer.estimated_stepping_batches), trainer.max_epochs or 1
        self.running = started(self.schedule, network, trainer.optimizers[0], steps, epochs)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Step the schedule where the optimizer made a step."""
        follow(self.running, trainer.global_step // len(trainer.optimizers))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if self.save is not None and trainer.is_global_zero:
            qatc.save(getattr(pl_module, self.attribute), self.save)
