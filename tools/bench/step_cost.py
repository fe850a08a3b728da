"""What a training step of one tool's prepared model costs, against the float model's, in one process; prints JSON.

    python -m tools.bench.step_cost TOOL MODEL [--rounds 9] [--batch 16] [--size 96] [--compile] [--device cuda]

On a CPU the clock is the process's own and there is one thread: on a shared machine the time that others hold the
processor does not count. `tools/bench/step_time` runs this for every tool and prints the table.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.bench.peers import Widths, load
from tools.bench.tasks import logits
from tools.models import model_named, randomise

Step = Callable[[], None]
_CLASSES = 100
_WARM = 2  # steps before the first that counts


def main() -> None:
    """Measure one tool on one model and print a JSON object; a failure is one, with its message."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tool")
    parser.add_argument("model", help="as tools/opt takes it")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--autocast", action="store_true")
    args = parser.parse_args()
    row: dict[str, Any] = {"tool": args.tool, "model": args.model}
    try:
        row |= measure(args)
    except Exception as error:  # whatever a tool raises is its result
        row["error"] = f"{type(error).__name__}: {str(error).strip()[:300]}"
    print(json.dumps(row))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return medians of seconds, the ratios, and what the forward pass keeps for the backward one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(args.batch, 3, args.size, args.size)
    labels = torch.randint(0, _CLASSES, (args.batch,)).to(args.device)
    # Statistics that fit: with fresh ones some tools diverge.
    float_model = randomise(model_named(args.model), x)
    tool = load(args.tool)
    start = time.process_time()
    prepared = tool.prepare(copy.deepcopy(float_model), [x], Widths())
    row: dict[str, Any] = {"version": tool.version(), "prepare": round(time.process_time() - start, 2)}
    tool.train(prepared)
    float_model.train()
    models = {"float": float_model.to(args.device), "qat": prepared.to(args.device)}
    x = x.to(args.device)
    kept = {label: saved_bytes(model, x, labels) for label, model in models.items()}
    row["saved_ratio"] = round(kept["qat"] / kept["float"], 3)
    steps = {label: training_step(model, x, labels, args) for label, model in models.items()}
    if args.compile:
        torch._dynamo.utils.counters.clear()
    for label, step in steps.items():
        for _ in range(_WARM):
            step()
        if args.compile and label == "qat":
            row["graph_breaks"] = sum(torch._dynamo.utils.counters["graph_break"].values())
    times: dict[str, list[float]] = {label: [] for label in steps}
    for _ in range(args.rounds):
        for label, step in steps.items():
            times[label].append(seconds(step, args.device))
    row |= {f"{label}_ms": round(1000 * statistics.median(found), 1) for label, found in times.items()}
    ratios = [qat / base for qat, base in zip(times["qat"], times["float"], strict=True)]
    return row | {"ratio": round(statistics.median(ratios), 3)}


def saved_bytes(model: nn.Module, x: Tensor, labels: Tensor) -> int:
    """Return the bytes of the distinct storages that one forward pass keeps for the backward one."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # The loss is held until the storages are counted, and they with it: none can take the place of another.
        loss = F.cross_entropy(logits(model(x)), labels)
    assert loss.isfinite()
    return sum(storages.values())


def training_step(model: nn.Module, x: Tensor, labels: Tensor, args: argparse.Namespace) -> Step:
    """Return a function that does one step: forward, backward, optimizer."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    run = torch.compile(model) if args.compile else model

    def cast() -> AbstractContextManager[Any]:
        return torch.autocast(args.device, torch.bfloat16) if args.autocast else nullcontext()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with cast():
            loss = F.cross_entropy(logits(run(x)), labels)
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Step, device: str) -> float:
    """Return how long one step takes: CPU time, or wall time on another device, which is waited for."""
    if device == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.accelerator.synchronize()
    start = time.perf_counter()
    step()
    torch.accelerator.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
