"""A run that may be killed at any moment and goes on to the very same numbers when it is started again.

python docs/examples/resume.py --state run.pt      # Ctrl-C, kill -9, a lost machine; then the same command again
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from task import accuracy, datasets, loss, network
from torch.utils.data import DataLoader, TensorDataset

import qatc


def batches_from(step: int, data: TensorDataset, size: int) -> Any:
    """Yield batches for ever, from that step on; the order is a function of the epoch alone."""
    each = len(data) // size
    while True:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(step // each))
        todo = order[: each * size].view(each, size)[step % each :].tolist()
        # A loader draws a seed for its workers: from a generator of its own, or a new loader would move the global one.
        for batch in DataLoader(data, batch_sampler=todo, generator=torch.Generator()):
            yield batch
            step += 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a file whole or not at all."""
    beside = path.with_suffix(".tmp")
    torch.save(state, beside)
    os.replace(beside, path)


def main() -> None:
    """Run it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--state", type=Path, default=Path("run.pt"))
    options.add_argument("--steps", type=int, default=200)
    options.add_argument("--every", type=int, default=10, help="steps from one saved state to the next")
    options.add_argument("--config", default="w4a4")
    given = options.parse_args()
    torch.manual_seed(0)
    training, held_out = datasets()

    model = qatc.prepare(network(), training.tensors[0][:2], config=given.config)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, given.steps)
    begin = 0
    if given.state.exists():
        state = torch.load(given.state, weights_only=True)
        begin = state["step"]
        model.load_state_dict(state["model"])  # ranges, learned steps and the schedule's are part of it
        optimizer.load_state_dict(state["optimizer"])
        rate.load_state_dict(state["rate"])
        torch.set_rng_state(state["rng"])
    else:
        qatc.calibrate(model, DataLoader(training, batch_size=32), steps=10)

    schedule = qatc.Schedule(freeze_bn=0.6, freeze_ranges=0.8).start(model, optimizer, total_steps=given.steps)
    model.train()
    batches = batches_from(begin, training, 32)
    for step in range(begin, given.steps):
        images, labels = next(batches)
        images = images + 0.05 * torch.randn_like(images)
        optimizer.zero_grad()
        value = loss(model, images, labels)
        value.backward()
        optimizer.step()
        rate.step()
        schedule.step()
        print(f"step {step} loss {value.item():.17g}", flush=True)
        if (step + 1) % given.every == 0:
            save(given.state, {
                "step": step + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                "rate": rate.state_dict(), "rng": torch.get_rng_state(),
            })  # fmt: skip
    print(f"{given.config}: {accuracy(model, held_out):.2f} %")


if __name__ == "__main__":
    main()
