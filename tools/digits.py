"""scikit-learn's handwritten digits as a training task, and the ordinary loop that trains on them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import qatc

# As shares of the epochs: when the BatchNorms' statistics stop moving, and when the ranges of activations do.
FREEZE_BN, FREEZE_RANGES = 0.6, 0.8
_SHIFT = 3  # pixels of 32 by which a batch is moved while training


@dataclass(frozen=True)
class Digits:
    """Images [N, 1, 32, 32] between 0 and 1 and their labels [N], for training and held out."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Recipe:
    """How long to train and how fast."""

    epochs: int
    rate: float
    batch: int = 32


def load(seed: int = 0) -> Digits:
    """Return the 1,797 images at 32x32, every fourth held out, as many of each digit as there are in all."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    images = F.interpolate(images, (32, 32), mode="bilinear")
    labels = torch.tensor(digits.target)
    train, test = train_test_split(range(len(labels)), test_size=0.25, stratify=labels, random_state=seed)
    return Digits(images[train], labels[train], images[test], labels[test])


def train(
    model: nn.Module,
    data: Digits,
    recipe: Recipe,
    before_epoch: Callable[[float], None] = lambda _: None,
    after_epoch: Callable[[], None] = lambda: None,
) -> None:
    """Train in place, float or prepared alike; `before_epoch` is told which share of the epochs is done."""
    steps = recipe.epochs * (len(data.labels) // recipe.batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, steps, cycle_momentum=False)
    for epoch in range(recipe.epochs):
        model.train()
        before_epoch(epoch / recipe.epochs)
        for images, labels in _batches(data, recipe.batch):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
        after_epoch()
    model.eval()


def train_quantized(
    model: qatc.PreparedModel, data: Digits, recipe: Recipe, after_epoch: Callable[[], None] = lambda: None
) -> None:
    """Calibrate a prepared model and train it: towards the end with frozen statistics, then with frozen ranges too."""
    qatc.calibrate(model, data.images[:512].split(64), progress=False)

    def freeze(done: float) -> None:
        if done >= FREEZE_BN:
            qatc.freeze_bn(model)
        if done >= FREEZE_RANGES:
            qatc.freeze_ranges(model)

    train(model, data, recipe, freeze, after_epoch)


def _batches(data: Digits, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.randperm(len(data.labels))
    for chosen in order[: len(order) // size * size].split(size):
        top, left = torch.randint(0, 2 * _SHIFT + 1, (2,)).tolist()
        moved = F.pad(data.images[chosen], (_SHIFT,) * 4)[..., top : top + 32, left : left + 32]
        yield moved, data.labels[chosen]


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of images, in percent, whose greatest logit is that of their label."""
    return 100 * float((logits.argmax(1) == labels).float().mean())


def torch_accuracy(model: nn.Module, data: Digits) -> float:
    """Return the accuracy on the held-out images, as torch computes it."""
    with torch.no_grad():
        return accuracy(model.eval()(data.test_images), data.test_labels)
