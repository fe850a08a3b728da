"""The rows of the demo's table: a trained variant lowered by the real command, run, timed, and printed."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from tools import measure
from tools.digits import Digits, accuracy

_COMPARED = re.compile(r"(\d+) codes: (\d+) differ per op(?: \([^)]*\))?, (\d+) end to end")
_LINT = re.compile(r"^lint: .*?(\d+) errors, (\d+) warnings", re.MULTILINE)
_FINDING = re.compile(r"^\w+ (?:error|warning) at .*", re.MULTILINE)


class CommandFailed(Exception):
    """qatc-lower ended with an exit code; the message holds what it printed."""


@dataclass(frozen=True)
class Trained:
    """A variant of a network, trained and saved, and the float model that it came from."""

    network: str
    config: str
    target: str
    float_accuracy: float
    qat_accuracy: float
    float_file: Path
    checkpoint: Path

    @property
    def file(self) -> Path:
        """Where the lowered model goes."""
        return self.checkpoint.with_suffix(".onnx")


@dataclass(frozen=True)
class Row:
    """What the demo shows of one variant; accuracies in percent, times of one image in seconds."""

    of: Trained
    int8_accuracy: float
    codes: int
    differ_per_op: int
    differ_end_to_end: int
    lint: str
    findings: tuple[str, ...]
    float_seconds: float | None = None
    int8_seconds: float | None = None

    @property
    def runs_here(self) -> bool:
        """Whether this file's own runtime is at hand."""
        return self.of.target == "onnxruntime"


def lowered(trained: Trained, samples: Path, data: Digits) -> Row:
    """Lower by the command `qatc-lower`, verified on `samples`, and run the file on the held-out images."""
    printed = _command(
        trained.checkpoint, "--target", trained.target, "-o", trained.file, "--verify", samples,
    )  # fmt: skip
    compared = _COMPARED.search(printed)
    if compared is None:
        raise CommandFailed(f"qatc-lower --verify did not say what it compared:\n{printed}")
    codes, per_op, end_to_end = map(int, compared.groups())
    lint = _LINT.search(printed)
    # A file for another runtime is run as it stands, Q and DQ in float.
    level = "all" if trained.target == "onnxruntime" else "disabled"
    logits = measure.run(measure.session(trained.file, level), data.test_images)
    return Row(
        trained, accuracy(logits, data.test_labels), codes, per_op, end_to_end,
        lint="-" if lint is None else f"{lint[1]} errors, {lint[2]} warnings",
        findings=tuple(_FINDING.findall(printed)),
    )  # fmt: skip


def _command(*arguments: str | Path) -> str:
    """Run qatc-lower, that of this environment if it has one; return what it printed."""
    beside = shutil.which("qatc-lower", path=str(Path(sys.executable).parent))
    start = [beside] if beside else [sys.executable, "-m", "qatc", "lower"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # the other core is training
    done = subprocess.run([*start, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        called = " ".join(["qatc-lower", *map(str, arguments)])
        raise CommandFailed(f"{called}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def timed(row: Row, repeats: int) -> Row:
    """Return the row with the times of one image in the float file and in its own, taken in turns."""
    if not row.runs_here:
        return row
    image = torch.zeros(1, 1, 32, 32)
    sessions = [measure.session(path) for path in (row.of.float_file, row.of.file)]
    before, after = measure.seconds([partial(measure.run, s, image) for s in sessions], repeats)
    return replace(row, float_seconds=before, int8_seconds=after)


# Column by column: what it belongs to, and its own name.
HEAD = tuple(zip(
    ("", "network"), ("", "config"), ("", "target"),
    ("accuracy, %", "float"), ("", "QAT"), ("", "int8"),
    ("codes", "compared"), ("differ", "per op"), ("differ", "end to end"),
    ("KiB", "float"), ("", "int8"), ("ms", "float"), ("", "int8"), ("", "ratio"),
    ("the target's rules", ""), strict=True,
))  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, a line each, and what the linter found below."""
    lines = [*HEAD, *map(_cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD[0]))]
    text = ["  ".join(_aligned(i, cell, widths[i]) for i, cell in enumerate(line)).rstrip() for line in lines]
    text.insert(len(HEAD), "-" * max(map(len, text)))
    found = [f"{row.of.network} {row.of.config}: {finding}" for row in rows for finding in row.findings]
    return "\n".join([*text, *found])


def _aligned(column: int, cell: str, width: int) -> str:
    return cell.ljust(width) if column < 3 or column == len(HEAD[0]) - 1 else cell.rjust(width)


def _cells(row: Row) -> tuple[str, ...]:
    of = row.of
    accuracies = (f"{value:.2f}" for value in (of.float_accuracy, of.qat_accuracy, row.int8_accuracy))
    counts = (f"{value:,}" for value in (row.codes, row.differ_per_op, row.differ_end_to_end))
    sizes = (f"{path.stat().st_size / 1024:.1f}" for path in (of.float_file, of.file))
    times = ("-", "-", "-")
    if row.float_seconds is not None and row.int8_seconds is not None:
        times = (
            f"{1e3 * row.float_seconds:.3f}", f"{1e3 * row.int8_seconds:.3f}",
            f"{row.int8_seconds / row.float_seconds:.2f}",
        )  # fmt: skip
    return (of.network, of.config, of.target, *accuracies, *counts, *sizes, *times, row.lint)


def summary(rows: Sequence[Row]) -> str:
    """Return a line about how far the int8 files' accuracy lies below that of the float models."""
    lost: dict[str, float] = {}
    for row in rows:
        bits = row.of.config.partition("-")[0]
        lost[bits] = max(lost.get(bits, -100.0), row.of.float_accuracy - row.int8_accuracy)
    return "points of accuracy lost to float, at most: " + ", ".join(
        f"{bits} {points:.2f}" for bits, points in lost.items()
    )
