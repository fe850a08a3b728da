"""What quantization-aware training costs: a training step of the prepared model against the float one, interleaved.

    python -m tools.bench.step_time --models resnet18 --batch 16 --size 96 [--compile] [--autocast] [--device cuda]

Prints the ratio of the medians, and of the peak memory on a GPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import qatc
from tools.models import model_named, randomise

Step = Callable[[], None]


def main() -> None:
    """Measure and print a row per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--models", nargs="+", default=["resnet18", "mobilenet_v2"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--config", default="w8a8")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--autocast", action="store_true", help="bfloat16")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {args.device}, batch {args.batch} at {args.size}x{args.size}, {args.config}")
    print(
        f"{'model':<16}{'mode':<20}{'float ms':>9}{'qat ms':>9}{'ratio':>7}{'float MiB':>11}{'qat MiB':>9}{'ratio':>7}"
    )
    for name in args.models:
        measure(name, args)


def measure(name: str, args: argparse.Namespace) -> None:
    """Print one model's row."""
    x = torch.randn(args.batch, 3, args.size, args.size)
    float_model = randomise(model_named(name), x)
    qat_model = qatc.prepare(float_model, (x,), config=args.config)
    qatc.calibrate(qat_model, [x], progress=False)
    models = {"float": float_model, "qat": qat_model}
    steps = {label: training_step(model, x, args) for label, model in models.items()}
    memory = {label: peak_memory(step, args.device) for label, step in steps.items()}
    times: dict[str, list[float]] = {label: [] for label in steps}
    for _ in tqdm(range(args.rounds), name, disable=None, leave=False):
        for label, step in steps.items():
            times[label].append(timed(step, args.device))
    ms = {label: 1000 * statistics.median(values) for label, values in times.items()}
    mode = "+".join([("compiled" if args.compile else "eager"), *(["bf16"] if args.autocast else [])])
    row = f"{name:<16}{mode:<20}{ms['float']:>9.1f}{ms['qat']:>9.1f}{ms['qat'] / ms['float']:>7.2f}"
    if memory["float"]:
        row += f"{memory['float']:>11.0f}{memory['qat']:>9.0f}{memory['qat'] / memory['float']:>7.2f}"
    print(row, flush=True)


def training_step(model: nn.Module, x: Tensor, args: argparse.Namespace) -> Step:
    """Return a function that does one step: forward, backward, optimizer."""
    model = model.to(args.device).train()
    x = x.to(args.device)
    labels = torch.zeros(len(x), dtype=torch.long, device=args.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    run = torch.compile(model) if args.compile else model
    cast = (lambda: torch.autocast(args.device, torch.bfloat16)) if args.autocast else nullcontext

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with cast():
            loss = F.cross_entropy(run(x), labels)
        loss.backward()
        optimizer.step()

    for _ in range(3):
        step()
    return step


def timed(step: Step, device: str) -> float:
    """Return the seconds of one step."""
    synchronize(device)
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


def peak_memory(step: Step, device: str) -> float:
    """Return the peak memory of a step above what is held before it, in MiB; 0 on a CPU."""
    if device == "cpu":
        return 0.0
    synchronize(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    synchronize(device)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
