"""Measures what the project promises: integer codes that differ between simulation and ONNX Runtime, what is left in
float, file sizes, and how long preparing and lowering take.

    tools/bench/figures [--models lenet resnet18] [--images 32]
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import qatc
from qatc.lowering import Verification, lower, verify
from tools import digits, measure
from tools.models import images, model_named, randomise
from tools.networks import NETWORKS

MODELS = ("lenet", "resnet-digits", "resnet18", "mobilenet_v2")
SETTINGS = (
    ("w8a8", "onnxruntime"), ("w8a8-pow2", "onnxruntime"), ("w8a8", "tensorrt"), ("w8a8-pow2", "tensorrt"),
)  # fmt: skip
TIMED = "resnet18"
_REPEATS = 3


@dataclass(frozen=True)
class Subject:
    """A float model, and images to calibrate and to compare with."""

    name: str
    model: nn.Module
    calibration: Tensor
    comparison: Tensor


@dataclass(frozen=True)
class Figures:
    """What is shown of one lowered model."""

    name: str
    config: str
    target: str
    check: Verification
    left_in_float: int
    size_ratio: float

    @property
    def step(self) -> int:
        """The largest difference of one code, per op."""
        return max(t.step for t in self.check.tensors)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        "tools/bench/figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, metavar="MODEL")
    parser.add_argument(
        "--images", type=int, default=32, metavar="N", help="to compare codes on (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    rows: list[Figures] = []
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(args.models) * len(SETTINGS), disable=None) as bar:
        for name in args.models:
            subject = subject_named(name, args.images)
            float_file = Path(folder, "float.onnx")
            measure.export_float(subject.model, subject.calibration[:2], float_file)
            for config, target in SETTINGS:
                bar.set_description(f"{name} {config} {target}")
                rows.append(figures(subject, config, target, float_file))
                bar.update()
    print(_HEAD)
    print("\n".join(map(_line, rows)))
    print("\n".join(goals(rows)))
    if TIMED in args.models:
        print("\n".join(timings()))
    return 0


def subject_named(name: str, count: int) -> Subject:
    """Return a model as if it had been trained: the small ones are, briefly; the others get weights and statistics."""
    if name in NETWORKS:
        data, model = digits.load(), NETWORKS[name]()
        digits.train(model, data, digits.Recipe(3, 3e-3))
        return Subject(name, model, data.images[:64], data.test_images[:count])
    calibration = images(16, 3, 64, 64, seed=1)
    return Subject(name, randomise(model_named(name), calibration), calibration, images(count, 3, 64, 64, seed=2))


def prepared(subject: Subject, config: str, target: str) -> qatc.PreparedModel:
    """Return the model with quantizers, calibrated, not trained."""
    model = qatc.prepare(subject.model, (subject.calibration[:2],), target, config)
    qatc.calibrate(model, subject.calibration.split(16), progress=False)
    return model.eval()


def figures(subject: Subject, config: str, target: str, float_file: Path) -> Figures:
    """Lower the model and compare the file with the simulation."""
    model = prepared(subject, config, target)
    file = float_file.with_name("lowered.onnx")
    lowered = lower(model, file)
    check = verify(model, lowered, {lowered.proto.graph.input[0].name: subject.comparison.numpy()})
    ratio = file.stat().st_size / float_file.stat().st_size
    return Figures(subject.name, config, target, check, measure.left_in_float(file).total(), ratio)


_HEAD = (
    f"{'':40}{'codes':>12}{'differ':>9}{'by':>4}{'differ':>9}{'SQNR':>8}{'jitter':>8}{'float':>7}{'size':>6}\n"
    f"{'model':15}{'config':11}{'target':14}{'compared':>12}{'per op':>9}{'':4}{'in all':>9}{'dB':>8}{'dB':>8}"
    f"{'layers':>7}{'ratio':>6}"
)


def _line(row: Figures) -> str:
    check = row.check
    # For another runtime's file it means nothing what ONNX Runtime would make of it.
    left = str(row.left_in_float) if row.target == "onnxruntime" else "-"
    return (
        f"{row.name:15}{row.config:11}{row.target:14}{check.codes:>12,}{check.differing:>9}{row.step:>4}"
        f"{check.differing_end_to_end:>9}{check.sqnr:>8.1f}{check.jitter_sqnr:>8.1f}{left:>7}{row.size_ratio:>6.2f}"
    )


def goals(rows: Sequence[Figures]) -> list[str]:
    """Return a line per promise: what was measured, and what was promised."""
    pow2 = [row for row in rows if row.config.endswith("pow2")]
    free = [row for row in rows if not row.config.endswith("pow2")]
    share = max((1e5 * row.check.differing / row.check.codes for row in free), default=0.0)
    here = [row.left_in_float for row in rows if row.target == "onnxruntime"]
    ratios = [row.size_ratio for row in rows if row.name == TIMED]
    step = max((row.step for row in free), default=0)
    lines = [
        f"power-of-two scales: {sum(row.check.differing_end_to_end for row in pow2)} codes differ in all (goal: 0)",
        f"free scales: at most {share:.2f} codes in 100,000 differ per op, by {step} (goal: 1, by 1)",
        f"Conv, Gemm and MatMul left in float by ONNX Runtime: {sum(here)} (goal: 0)",
    ]
    return lines + [f"{TIMED}: int8 file {ratio:.3f} of the float one (goal: 0.30)" for ratio in sorted(ratios)[-1:]]


def timings() -> list[str]:
    """Return how long preparing and lowering take, as medians; what is imported once is not counted."""
    subject = subject_named(TIMED, 1)
    model = prepared(subject, "w8a8", "onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        preparing, lowering = measure.seconds(
            [lambda: qatc.prepare(subject.model, (subject.calibration[:2],)), lambda: lower(model, path)], _REPEATS
        )
    return [f"{TIMED}: prepare {preparing:.2f} s (goal: 1), lower {lowering:.1f} s (goal: 10), medians of {_REPEATS}"]


if __name__ == "__main__":
    sys.exit(main())
