"""Lightning: prepare, calibrate, freeze and save around a Trainer's own loop."""

import os
from collections.abc import Iterable
from itertools import islice
from typing import Any

from torch import nn

import qatc
from qatc.integrations.progress import Freezing, calibrated
from qatc.prepared import PreparedModel

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
        freeze_bn: the share of the optimizer's steps after which BatchNorm statistics stop moving.
        freeze_ranges: likewise the ranges of activations.
        calibration_batches: how many batches to record.
        batches: what to record instead of the training loader's batches, as `qatc.calibrate` takes them.
        save: where rank 0 writes the model when training ends (`qatc.save`).
        prepare: what `qatc.prepare` takes beside the network: example_inputs, target, config.

    """

    def __init__(
        self,
        attribute: str = "model",
        *,
        freeze_bn: float = 0.6,
        freeze_ranges: float = 0.8,
        calibration_batches: int = 16,
        batches: Iterable[Any] | None = None,
        save: str | os.PathLike[str] | None = None,
        **prepare: Any,
    ) -> None:
        self.attribute, self.batches, self.save = attribute, batches, save
        self.freezing, self.calibration_batches, self.prepare = (
            Freezing(freeze_bn, freeze_ranges),
            calibration_batches,
            prepare,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the prepared network in the float one's place."""
        network: nn.Module = getattr(pl_module, self.attribute)
        if not isinstance(network, PreparedModel):
            setattr(pl_module, self.attribute, qatc.prepare(network, **self.prepare))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record ranges where none are known."""
        batches = trainer.train_dataloader if self.batches is None else self.batches
        calibrated(getattr(pl_module, self.attribute), islice(batches, self.calibration_batches))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Freeze what the share of steps done asks for."""
        done = trainer.global_step / trainer.estimated_stepping_batches
        self.freezing.follow(getattr(pl_module, self.attribute), done)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if self.save is not None and trainer.is_global_zero:
            qatc.save(getattr(pl_module, self.attribute), self.save)
