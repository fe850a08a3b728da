"""Trains one task with one tool, cell by cell and seed by seed, in one process; prints a JSON object for each.

    python -m tools.bench.accuracy_run TASK TOOL FOLDER CELL:SEED:RATE ...

The folder holds the float weights. With CELL:SEED alone a rate is chosen (tools/bench/rates.py). `tools/bench/accuracy`
runs this for every tool and prints the table.
"""

import copy
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tools import measure
from tools.bench.peers import Tool, Widths, load
from tools.bench.rates import OF_8_BITS, OF_FEWER, climb, kept_from_training, row_of, score
from tools.bench.tasks import BATCH, TASKS, Task, float_model, test_accuracy, train

CELLS = {
    "w8a8": Widths(8, 8),
    "w4a4": Widths(4, 4),
    "w3a3": Widths(3, 3),
    "w2a4": Widths(2, 4),
    "w4a4-stem8": Widths(4, 4, stem="stem"),
    "w8a8-pow2": Widths(8, 8, pow2=True),
    "w4a4-pow2": Widths(4, 4, pow2=True),
    "w3a3-pow2": Widths(3, 3, pow2=True),
    "w2a4-pow2": Widths(2, 4, pow2=True),
}


def main() -> None:
    """Run what the command line names."""
    name, tool_name, folder, *jobs = sys.argv[1:]
    torch.set_num_threads(1)
    task, tool = TASKS[name](), load(tool_name)
    for job in jobs:
        cell, seed, *rate = job.split(":")
        row: dict[str, Any] = {"task": name, "tool": tool_name, "cell": cell, "seed": int(seed)}
        start = time.process_time()
        try:
            if rate:
                row |= result(name, task, tool, cell, int(seed), float(rate[0]), Path(folder))
            else:
                row |= choice(name, task, tool, cell, int(seed), Path(folder))
        except Exception as error:  # whatever a tool raises is its result
            row["error"] = said(error)
        print(json.dumps(row | {"seconds": round(time.process_time() - start, 1)}), flush=True)


def said(error: Exception) -> str:
    """Return type and message, one line of it."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def result(name: str, task: Task, tool: Tool, cell: str, seed: int, rate: float, folder: Path) -> dict[str, Any]:
    """Return the accuracies in percent: of the float weights, of the simulation, of the file in ONNX Runtime."""
    start = float_model(name, task, seed, folder)
    row: dict[str, Any] = {"version": tool.version(), "rate": rate, "float": round(test_accuracy(start, task), 2)}
    model = trained(start, task, tool, cell, seed, rate)
    row["simulated"] = round(test_accuracy(model, task), 2)
    try:
        row["deployed"] = round(deployed(task, tool, model), 2)
    except Exception as error:
        row["export_error"] = said(error)
    return row


def choice(name: str, task: Task, tool: Tool, cell: str, seed: int, folder: Path) -> dict[str, Any]:
    """Return the rate that is worth the most on images kept from the training, and what each is worth."""
    part = kept_from_training(task)
    start = float_model(f"{name}-part", part, seed, folder)
    widths = CELLS[cell]
    found = climb(
        lambda rate: score(trained(start, part, tool, cell, seed, rate), part),
        OF_8_BITS if min(widths.weights, widths.activations) == 8 else OF_FEWER,
    )
    return row_of(found)


def trained(start: torch.nn.Module, task: Task, tool: Tool, cell: str, seed: int, rate: float) -> torch.nn.Module:
    """Return the model after its training, in the mode for evaluation."""
    widths = CELLS[cell]
    if widths.stem is not None:
        widths = dataclasses.replace(widths, stem=task.stem)
    torch.manual_seed(seed)
    model = tool.prepare(copy.deepcopy(start), task.calibration, widths)
    tool.train(model)
    groups = tool.groups(model, rate)
    train(model, task, task.recipe(rate), groups, seed, lambda done: tool.advance(model, done))
    tool.finish(model, task.measured)
    tool.evaluate(model)
    return model


def deployed(task: Task, tool: Tool, model: torch.nn.Module) -> float:
    """Return the accuracy of the exported file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        tool.export(model, task.test_images[:BATCH], file)
        try:
            session = measure.session(file)
        except Exception:  # its optimizer moves types of 4 bits to where the runtime itself has no kernel for them
            session = measure.session(file, "disabled")
        return test_accuracy(lambda images: measure.run(session, images), task)


if __name__ == "__main__":
    main()
