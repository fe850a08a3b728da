"""Quantization-aware training on a folder of images, as ImageNet is laid out: train/CLASS/*.jpg and val/CLASS/*.jpg.

torchrun --nproc_per_node 8 docs/examples/imagenet.py /data/imagenet --arch resnet50 --weights resnet50.pth

It goes on where it ended (the same command again), and leaves model.pt and model.onnx in --out.
"""

import argparse
import math
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler
from torchvision import datasets, models, transforms

import qatc

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
WARM_UP = 0.05  # the share of the steps in which the rate rises


def options() -> argparse.Namespace:
    """Read the command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("data", type=Path)
    found.add_argument("--arch", default="resnet50", help="a model of torchvision's")
    found.add_argument("--weights", type=Path, help="the float model's state_dict; without it training starts afresh")
    found.add_argument("--config", default="w8a8")
    found.add_argument("--target", default="onnxruntime")
    found.add_argument("--epochs", type=int, default=15)
    found.add_argument("--batch", type=int, default=64, help="images a process")
    found.add_argument("--rate", type=float, default=1e-4, help="for 256 images a step; the real one is in proportion")
    found.add_argument("--decay", type=float, default=1e-4)
    found.add_argument("--smoothing", type=float, default=0.1)
    found.add_argument("--size", type=int, default=224)
    found.add_argument("--amp", choices=("none", *DTYPES), default="none")
    found.add_argument("--sync-bn", action="store_true", help="BatchNorm statistics of all ranks' batch (GPUs alone)")
    found.add_argument("--workers", type=int, default=8)
    found.add_argument("--calibrate", type=int, default=32, help="batches to record ranges from")
    found.add_argument("--freeze-bn", type=float, default=0.6, help="share of the steps after which statistics stay")
    found.add_argument("--freeze-ranges", type=float, default=0.8, help="likewise the ranges of activations")
    found.add_argument("--out", type=Path, default=Path("run"))
    return found.parse_args()


def device_of_rank() -> torch.device:
    """Join the group that torchrun made, of one process where it did not, and return this process's device."""
    cuda = torch.cuda.is_available()
    if "RANK" not in os.environ:
        os.environ |= {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": "0",
        }
    dist.init_process_group("nccl" if cuda else "gloo")
    if not cuda:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def loaders(given: argparse.Namespace) -> tuple[DataLoader, DataLoader]:
    """Return the training and the validation images, each rank its share."""
    finish = [transforms.ToTensor(), transforms.Normalize(MEAN, SPREAD)]
    enlarge = transforms.Resize(given.size * 256 // 224)
    augmented = [transforms.RandomResizedCrop(given.size), transforms.RandomHorizontalFlip()]
    training = datasets.ImageFolder(given.data / "train", transforms.Compose([*augmented, *finish]))
    held_out = datasets.ImageFolder(
        given.data / "val", transforms.Compose([enlarge, transforms.CenterCrop(given.size), *finish])
    )
    common: dict[str, Any] = {
        "batch_size": given.batch, "num_workers": given.workers, "pin_memory": torch.cuda.is_available(),
        "persistent_workers": given.workers > 0,
    }  # fmt: skip
    train = DataLoader(training, sampler=DistributedSampler(training), drop_last=True, **common)
    return train, DataLoader(held_out, sampler=DistributedSampler(held_out, shuffle=False), **common)


def prepared(given: argparse.Namespace, classes: int, device: torch.device) -> qatc.PreparedModel:
    """Return the model as it will deploy, not yet calibrated."""
    model: nn.Module = models.get_model(given.arch, num_classes=classes)
    if given.weights is not None:
        model.load_state_dict(torch.load(given.weights, map_location="cpu", weights_only=True))
    if given.sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    example = torch.randn(2, 3, given.size, given.size)
    found = qatc.prepare(model, example, target=given.target, config=given.config)
    return found.to(device).to(memory_format=torch.channels_last)


def rate_at(step: int, steps: int) -> float:
    """Return the share of the rate: up in a line, down in a cosine."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


class Run:
    """The model with all that a run needs to go on: saved by rank 0, read by all."""

    def __init__(self, given: argparse.Namespace, model: qatc.PreparedModel, device: torch.device, steps: int) -> None:
        self.given, self.model, self.device = given, model, device
        self.wrapped = DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
        shared, own = [], []  # BatchNorms, biases and learned scales are not drawn towards zero
        for p in model.parameters():
            (shared if p.dim() > 1 else own).append(p)
        groups = [{"params": shared, "weight_decay": given.decay}, {"params": own, "weight_decay": 0.0}]
        rate = given.rate * given.batch * dist.get_world_size() / 256
        self.optimizer = torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True)
        self.rates = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: rate_at(step, steps))
        self.scaler = torch.amp.GradScaler(device.type, enabled=given.amp == "fp16")
        schedule = qatc.Schedule(freeze_bn=given.freeze_bn, freeze_ranges=given.freeze_ranges)
        self.schedule = schedule.start(model, self.optimizer, total_steps=steps)  # its step is in the model's state
        self.epoch = 0

    def parts(self) -> dict[str, Any]:
        """Return what has a state_dict."""
        return {"model": self.model, "optimizer": self.optimizer, "rates": self.rates, "scaler": self.scaler}

    def save(self, path: Path) -> None:
        """Write the state, whole or not at all."""
        state = {name: part.state_dict() for name, part in self.parts().items()}
        torch.save({**state, "epoch": self.epoch}, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)

    def load(self, path: Path) -> None:
        """Go on from there."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.epoch = state["epoch"]

    def autocast(self) -> Any:
        """Return the context of a forward pass."""
        amp = self.given.amp
        return nullcontext() if amp == "none" else torch.autocast(self.device.type, DTYPES[amp])

    def on_device(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Move a batch."""
        images = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return images, labels.to(self.device, non_blocking=True)

    def train(self, loader: DataLoader) -> float:
        """Train for an epoch and return the mean loss of this rank."""
        self.wrapped.train()
        total = torch.zeros((), device=self.device)
        for batch in loader:
            images, labels = self.on_device(*batch)
            with self.autocast():
                loss = F.cross_entropy(self.wrapped(images), labels, label_smoothing=self.given.smoothing)
            self.optimizer.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.rates.step()
            self.schedule.step()
            total += loss.detach()
        self.epoch += 1
        return float(total) / len(loader)

    def evaluate(self, loader: DataLoader) -> float:
        """Return the accuracy in percent, counted by all ranks; with rank 0's statistics, which are those saved."""
        for buffer in self.model.buffers():
            dist.broadcast(buffer, 0)
        self.model.eval()
        right = torch.zeros(2, device=self.device)
        with torch.no_grad():
            for batch in loader:
                images, labels = self.on_device(*batch)
                right += torch.stack([(self.model(images).argmax(1) == labels).sum(), torch.tensor(len(labels))])
        dist.all_reduce(right)
        return 100 * float(right[0] / right[1])


def main() -> None:
    """Run it."""
    given = options()
    device = device_of_rank()
    torch.manual_seed(dist.get_rank())
    training, held_out = loaders(given)
    model = prepared(given, len(training.dataset.classes), device)
    main_rank, last = dist.get_rank() == 0, given.out / "last.pth"
    if not last.exists():
        qatc.calibrate(model, training, steps=given.calibrate)
    run = Run(given, model, device, given.epochs * len(training))
    if last.exists():
        run.load(last)
    dist.barrier()
    given.out.mkdir(parents=True, exist_ok=True)
    while run.epoch < given.epochs:
        training.sampler.set_epoch(run.epoch)
        loss = run.train(training)
        accuracy = run.evaluate(held_out)
        if main_rank:
            print(f"epoch {run.epoch} loss {loss:.4f} accuracy {accuracy:.2f} % (quantized)", flush=True)
            run.save(last)
        dist.barrier()
    if main_rank:
        model.cpu()
        qatc.save(model, given.out / "model.pt")
        qatc.lower(model, given.out / "model.onnx")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
