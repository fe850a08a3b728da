"""The plain loop: train in float, prepare, calibrate, train on with quantization, save.

python docs/examples/plain.py --out digits.pt
qatc-lower digits.pt -o digits.onnx
"""

import argparse

import torch
from task import accuracy, datasets, loss, network
from torch import nn
from torch.utils.data import DataLoader

import qatc


def train(model: nn.Module, loader: DataLoader, epochs: int, rate: float) -> None:
    """Train a float model, or a prepared one, whose schedule is the only line that knows."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = None
    if isinstance(model, qatc.PreparedModel):
        # The last part trains with the statistics, and then with the ranges, that will deploy.
        schedule = qatc.Schedule(freeze_bn=0.6, freeze_ranges=0.8)
        schedule = schedule.start(model, optimizer, steps_per_epoch=len(loader), epochs=epochs)
    for _ in range(epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            loss(model, images, labels).backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()


def main() -> None:
    """Run it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--config", default="w8a8")
    options.add_argument("--out", default="digits.pt")
    given = options.parse_args()
    torch.manual_seed(0)
    training, held_out = datasets()
    loader = DataLoader(training, batch_size=32, shuffle=True)

    model = network()
    train(model, loader, given.epochs, 1e-2)
    print(f"float: {accuracy(model, held_out):.2f} %")

    prepared = qatc.prepare(model, training.tensors[0][:2], config=given.config)
    print(prepared.report.summary)
    qatc.calibrate(prepared, loader, steps=10)
    train(prepared, loader, given.epochs, 1e-3)
    print(f"{given.config}: {accuracy(prepared, held_out):.2f} %")
    qatc.save(prepared, given.out)


if __name__ == "__main__":
    main()
