"""The learning rate of each tool in each cell: chosen by training images that were kept from the training.

`tools/bench/accuracy --choose-rates` writes rates.jsonl, a line per choice with what each rate tried was worth. Test
images and the seeds of the comparison have no part in it.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from tools.bench.tasks import Task, evaluated
from tools.digits import accuracy

RATES = Path(__file__).with_name("rates.jsonl")
SEED = 100  # of the trials; the comparison's begin at 0
CANDIDATES = (2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
# Where the search begins.
OF_8_BITS, OF_FEWER = 5e-4, 2e-3
_KEPT = 6  # one image in so many


class Score(NamedTuple):
    """Accuracy in percent; where two are equal, the lesser loss is the better."""

    accuracy: float
    minus_loss: float


def kept_from_training(task: Task) -> Task:
    """Return the task with the last sixth of its training images as those it is scored by."""
    count = len(task.labels) - len(task.labels) // _KEPT
    return dataclasses.replace(
        task,
        images=task.images[:count],
        labels=task.labels[:count],
        test_images=task.images[count:],
        test_labels=task.labels[count:],
    )


def score(model: nn.Module, task: Task) -> Score:
    """Return what a model in evaluation mode is worth."""
    found = evaluated(model, task)
    loss = float(torch.nan_to_num(F.cross_entropy(found, task.test_labels), nan=torch.inf))
    return Score(round(accuracy(found, task.test_labels), 2), -round(loss, 4))


def climb(value: Callable[[float], Score], start: float) -> dict[float, Score]:
    """Try candidates from `start` on, a neighbour at a time, until both neighbours of the best are worse."""
    found: dict[float, Score] = {}
    at = CANDIDATES.index(start)
    while True:
        near = CANDIDATES[max(at - 1, 0) : at + 2]
        for rate in near:
            if rate not in found:
                found[rate] = value(rate)
        best = CANDIDATES.index(max(near, key=lambda rate: found[rate]))
        if best == at:
            return found
        at = best


def row_of(found: dict[float, Score]) -> dict[str, Any]:
    """Return the chosen rate and what each is worth, as rates.jsonl has them."""
    best = max(sorted(found), key=lambda rate: found[rate])
    return {"rate": best, "tried": {f"{rate:g}": list(found[rate]) for rate in sorted(found)}}


def read(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the rows of the file, none if there is no file, by task, tool and cell."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(row["task"], row["tool"], row["cell"]): row for row in map(json.loads, lines)}
