"""The whole way on real data: handwritten digits, two networks, from float training to int8 in ONNX Runtime.

Each network is trained in float; then, for each target and number of bits, prepared, calibrated, trained with
quantization, saved, and lowered by qatc-lower. One table at the end shows what came out.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import qatc
from tools import digits, measure
from tools.demo_rows import CommandFailed, Row, Trained, lowered, summary, table, timed
from tools.digits import Digits, Recipe
from tools.networks import NETWORKS

FLOAT = {"lenet": Recipe(40, 3e-3), "resnet-digits": Recipe(20, 5e-3)}
VARIANTS = (
    ("w8a8", "onnxruntime", Recipe(8, 5e-4)),
    ("w8a8", "tensorrt", Recipe(8, 5e-4)),
    ("w8a8-pow2", "onnxruntime", Recipe(8, 5e-4)),
    ("w4a4", "onnxruntime", Recipe(8, 1e-3)),
    ("w4a4-pow2", "onnxruntime", Recipe(8, 1e-3)),
)


@dataclass(frozen=True)
class Plan:
    """What one run of the demo does, and where it writes."""

    networks: dict[str, Recipe]
    variants: tuple[tuple[str, str, Recipe], ...]
    data: Digits
    folder: Path
    seed: int
    repeats: int  # of each timing

    @property
    def steps(self) -> int:
        """Epochs of all trainings, and lowerings."""
        each = sum(recipe.epochs + 1 for *_, recipe in self.variants)
        return sum(recipe.epochs + each for recipe in self.networks.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    args = _parser().parse_args(argv)
    start = time.perf_counter()
    # The tensors are small, the other core lowers meanwhile, and results do not depend on the number of cores.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = args.out or Path(temporary)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            rows = run(quick_plan(folder) if args.quick else full_plan(folder, args.seed))
        except CommandFailed as error:
            print(f"demo: error: {error}", file=sys.stderr)
            return 1
        except OSError as error:
            print(f"demo: error: {error.strerror}: {error.filename or folder}", file=sys.stderr)
            return 2
        print(table(rows))
    kept = f"the files are in {args.out}" if args.out else "tools/demo --out FOLDER keeps the files"
    print(f"{summary(rows)}; {time.perf_counter() - start:.0f} s; {kept}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tools/demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="keep checkpoints and ONNX files in this folder")
    parser.add_argument("--quick", action="store_true", help="LeNet at 8 bits, hardly trained: only to see it work")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and shifts (default: %(default)s)")
    return parser


def full_plan(folder: Path, seed: int) -> Plan:
    """Return the plan that makes the table of the README."""
    return Plan(FLOAT, VARIANTS, digits.load(), folder, seed, 2000)


def quick_plan(folder: Path) -> Plan:
    """Return the plan of a run that takes seconds and teaches the network little."""
    data = digits.load()
    few = replace(data, test_images=data.test_images[:64], test_labels=data.test_labels[:64])
    variants = tuple((config, target, Recipe(1, 1e-3)) for config, target, _ in VARIANTS[:2])
    return Plan({"lenet": Recipe(2, 3e-3)}, variants, few, folder, 0, 20)


def run(plan: Plan) -> list[Row]:
    """Train every variant of every network, lower each meanwhile, then time the files with nothing else running."""
    samples = plan.folder / "test.npz"
    np.savez(samples, x=plan.data.test_images.numpy())
    with ThreadPoolExecutor(1) as background, tqdm(total=plan.steps, disable=None) as bar:
        jobs: list[Future[Row]] = []
        for name, recipe in plan.networks.items():
            torch.manual_seed(plan.seed)
            network = NETWORKS[name]()
            bar.set_description(f"{name} in float")
            digits.train(network, plan.data, recipe, after_epoch=bar.update)
            for trained in variants_of(name, network, plan, bar):
                jobs.append(background.submit(lowered, trained, samples, plan.data))
                jobs[-1].add_done_callback(lambda _: bar.update())
                for job in jobs:
                    if job.done():
                        job.result()  # raises what the lowering raised, before more is trained
        bar.set_description("qatc-lower")
        rows = [job.result() for job in jobs]
    return [timed(row, plan.repeats) for row in rows]


def variants_of(name: str, network: nn.Module, plan: Plan, bar: tqdm) -> Iterator[Trained]:
    """Train each variant of a trained float network with quantization, and save it."""
    images = plan.data.images[:2]
    float_file = plan.folder / f"{name}-float.onnx"
    measure.export_float(network, images, float_file)
    float_accuracy = digits.torch_accuracy(network, plan.data)
    for config, target, recipe in plan.variants:
        bar.set_description(f"{name} {config} {target}")
        torch.manual_seed(plan.seed)  # so that a variant does not depend on those before it
        model = qatc.prepare(network, (images,), target, config)
        digits.train_quantized(model, plan.data, recipe, after_epoch=bar.update)
        checkpoint = plan.folder / f"{name}-{config}-{target}.pt"
        qatc.save(model, checkpoint)
        accuracy = digits.torch_accuracy(model, plan.data)
        yield Trained(name, config, target, float_accuracy, accuracy, float_file, checkpoint)


if __name__ == "__main__":
    sys.exit(main())
