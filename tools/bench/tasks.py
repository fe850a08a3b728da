"""What the tools are compared on: data, a network, its float weights by seed, and a budget of steps; and the loop."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools import digits
from tools.bench.glyphs import glyphs
from tools.bench.networks import GlyphNet
from tools.digits import Recipe, accuracy
from tools.networks import LeNet

BATCH = 150  # of evaluation and of the files; every test set is a multiple of it
_CALIBRATION, _MEASURED = 8, 100  # batches of training images
_WARM_UP = 0.1  # of the steps
_SHIFT = 2  # pixels by which a batch is moved while training


@dataclass(frozen=True)
class Task:
    """Images [N, 1, 32, 32] and labels [N]; the network and its first layer; how it is trained."""

    network: Callable[[], nn.Module]
    stem: str
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    float_recipe: Recipe
    epochs: int  # with quantization; tools/bench/rates.py has the rates

    @property
    def calibration(self) -> list[Tensor]:
        """The batches that ranges are first set from."""
        return self._first(_CALIBRATION)

    @property
    def measured(self) -> list[Tensor]:
        """The batches that statistics are taken from when the training is over."""
        return self._first(_MEASURED)

    def _first(self, count: int) -> list[Tensor]:
        batch = self.float_recipe.batch
        return list(self.images[: count * batch].split(batch))

    def recipe(self, rate: float) -> Recipe:
        """Return that of training with quantization."""
        return Recipe(self.epochs, rate, self.float_recipe.batch)


def _digits() -> Task:
    data = digits.load()
    images = (data.images, data.labels, data.test_images, data.test_labels)
    return Task(LeNet, "conv1", *images, Recipe(25, 3e-3), epochs=3)


def _glyphs() -> Task:
    train, test = glyphs(7200, seed=0), glyphs(3600, seed=1)
    images = (train.images, train.labels, test.images, test.labels)
    return Task(GlyphNet, "stem", *images, Recipe(12, 1e-2), epochs=1)


TASKS: dict[str, Callable[[], Task]] = {"digits": _digits, "glyphs": _glyphs}


def float_model(name: str, task: Task, seed: int, folder: Path) -> nn.Module:
    """Return the network trained in float; it is trained once a seed and kept in the folder."""
    file = folder / f"{name}-float-{seed}.pt"
    torch.manual_seed(seed)
    model = task.network()
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
        return model.eval()
    groups = [{"params": list(model.parameters()), "lr": task.float_recipe.rate}]
    train(model.train(), task, task.float_recipe, groups, seed, lambda _: None)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    torch.save(model.state_dict(), unfinished)
    unfinished.rename(file)
    return model.eval()


def train(
    model: nn.Module,
    task: Task,
    recipe: Recipe,
    groups: list[dict[str, object]],
    seed: int,
    before_step: Callable[[float], None],
) -> None:
    """Train a model that is in training mode by Adam, the rate rising at first and then falling along a cosine.

    The order of the data follows the seed alone. `before_step` is told which share of the steps is done.
    """
    steps = recipe.epochs * (len(task.labels) // recipe.batch)
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], steps, pct_start=_WARM_UP, cycle_momentum=False
    )
    for step, (images, labels) in enumerate(_batches(task, recipe, seed)):
        before_step(step / steps)
        optimizer.zero_grad()
        F.cross_entropy(logits(model(images)), labels).backward()
        optimizer.step()
        schedule.step()


def _batches(task: Task, recipe: Recipe, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    whole = len(task.labels) // recipe.batch * recipe.batch
    for _ in range(recipe.epochs):
        for chosen in torch.randperm(len(task.labels), generator=random)[:whole].split(recipe.batch):
            top, left = torch.randint(0, 2 * _SHIFT + 1, (2,), generator=random).tolist()
            padded = F.pad(task.images[chosen], (_SHIFT,) * 4, mode="replicate")
            yield padded[..., top : top + 32, left : left + 32], task.labels[chosen]


def logits(output: object) -> Tensor:
    """Return the tensor that a model gave; some tools wrap it."""
    found = output if isinstance(output, Tensor) else getattr(output, "value", None)
    assert isinstance(found, Tensor)
    return found


def evaluated(predict: Callable[[Tensor], object], task: Task) -> Tensor:
    """Return the logits of the test images."""
    with torch.no_grad():
        return torch.cat([logits(predict(images)) for images in task.test_images.split(BATCH)])


def test_accuracy(predict: Callable[[Tensor], object], task: Task) -> float:
    """Return the share of test images, in percent, that are labelled right."""
    return accuracy(evaluated(predict, task), task.test_labels)
