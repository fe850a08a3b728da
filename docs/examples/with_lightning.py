"""Lightning owns the loop; a callback prepares, calibrates, freezes and saves.

python docs/examples/with_lightning.py --out digits.pt
"""

import argparse
from typing import Any

import lightning.pytorch as pl
import torch
from task import accuracy, datasets, loss, network
from torch import Tensor, nn
from torch.utils.data import DataLoader

from qatc.integrations.lightning import QATCallback


class Digits(pl.LightningModule):
    """A module as it is written for training in float."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss."""
        return loss(self.model, *batch)

    def configure_optimizers(self) -> Any:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), 1e-2)


def main() -> None:
    """Run it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--out", default="digits.pt")
    given = options.parse_args()
    pl.seed_everything(0)
    training, held_out = datasets()
    task = Digits(network())
    qat = QATCallback(example_inputs=training.tensors[0][:2], config="w8a8", save=given.out)
    trainer = pl.Trainer(max_epochs=given.epochs, callbacks=[qat], devices=1, logger=False, enable_checkpointing=False)
    trainer.fit(task, DataLoader(training, batch_size=32, shuffle=True))
    print(f"w8a8: {accuracy(task.model.cpu(), held_out):.2f} %")


if __name__ == "__main__":
    main()
