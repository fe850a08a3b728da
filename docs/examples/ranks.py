"""Several processes, one for each device, with DistributedDataParallel.

torchrun --nproc_per_node 2 docs/examples/ranks.py --out digits.pt
"""

import argparse
import os

import torch
import torch.distributed as dist
from task import accuracy, datasets, loss, network
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import qatc


def main() -> None:
    """Run it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--out", default="digits.pt")
    given = options.parse_args()
    cuda = torch.cuda.is_available()
    dist.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    torch.manual_seed(0)
    training, held_out = datasets()
    sampler = DistributedSampler(training)
    loader = DataLoader(training, batch_size=16, sampler=sampler)

    model = qatc.prepare(network(), training.tensors[0][:2]).to(device)
    qatc.calibrate(model, loader, steps=10)  # each rank its share: all get the ranges of what any of them saw
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(wrapped.parameters(), 1e-2)
    schedule = qatc.Schedule(freeze_bn=0.6, freeze_ranges=0.8)
    schedule = schedule.start(model, optimizer, steps_per_epoch=len(loader), epochs=given.epochs)
    for epoch in range(given.epochs):
        sampler.set_epoch(epoch)
        wrapped.train()
        for images, labels in loader:
            optimizer.zero_grad()
            loss(wrapped, images.to(device), labels.to(device)).backward()
            optimizer.step()
            schedule.step()

    if dist.get_rank() == 0:
        model.cpu()
        print(f"w8a8 on {dist.get_world_size()} ranks: {accuracy(model, held_out):.2f} %")
        qatc.save(model, given.out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
