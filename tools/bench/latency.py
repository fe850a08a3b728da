"""Measures how fast lowered files run: qatc's for ONNX Runtime beside its own static quantization, and float.

    tools/bench/latency [--models resnet50 unet] [--threads 1 2] [--rounds 15] [--resume rows.jsonl]

One image; the three files take turns in one process, and the figures are medians. `--clock cpu` counts the processor's
time instead, which other programs disturb less. ONNX Runtime quantizes as its guide
says: its pre-processing first, QDQ, uint8 activations and int8 weights per channel, the same images to calibrate on.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

import qatc
from tools import measure
from tools.bench import cells
from tools.bench.corpus import CONVOLUTIONAL, CORPUS, built

# Two sessions of one file differ by up to 2 % in processor time; the goal makes no allowance for it.
GOAL_RATIO, GOAL_SIZE, SIZED = 1.0, 0.27, "resnet50"
FIELDS = ("model", "threads")
LONGEST = 900.0
KINDS = ("float", "qatc", "ort")
CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


class Images(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """The calibration images, one at a time."""

    def __init__(self, images: Tensor, name: str) -> None:
        self.waiting: Iterator[dict[str, Any]] = iter([{name: image[None].numpy()} for image in images])

    def get_next(self) -> dict[str, Any] | None:
        """Return the next, None at the end."""
        return next(self.waiting, None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        "tools/bench/latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(CONVOLUTIONAL), choices=CORPUS, metavar="MODEL")
    parser.add_argument("--threads", nargs="+", default=["1", "2"], metavar="N", help="(default: 1 2)")
    parser.add_argument("--rounds", type=int, default=15, help="runs of each that count (default: %(default)s)")
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="(default: %(default)s)")
    parser.add_argument("--size", type=int, help="height and width of the images (default: 224, of the ViT 96)")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="note each result there, and skip what is there")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table as Markdown, too")
    parser.add_argument("--ops", action="store_true", help="print how the operators of both optimized graphs differ")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        logging.getLogger().setLevel(logging.ERROR)  # ONNX Runtime's tools speak of their preprocessing
        print(json.dumps(measured(args.models[0], int(args.threads[0]), args.rounds, args.size, args.clock)))
        return 0
    options = ["--rounds", str(args.rounds), "--clock", args.clock, *(["--size", str(args.size)] if args.size else [])]
    rows = cells.run_all(
        [(model, threads) for model in args.models for threads in args.threads], FIELDS,
        lambda cell: ["tools.bench.latency", "--one", "--models", cell[0], "--threads", cell[1], *options],
        args.resume, LONGEST,
    )  # fmt: skip
    print("\n".join([*table(rows), *goals(rows), *(differences(rows) if args.ops else [])]))
    if args.write is not None:
        args.write.write_text(markdown(rows, args.clock), encoding="utf-8")
    return 0


def measured(name: str, threads: int, rounds: int, size: int | None = None, clock: str = "wall") -> cells.Row:
    """Return sizes of the three files, medians of their times, and the operators that ONNX Runtime makes of them."""
    torch.set_num_threads(1)
    model, calibration = built(name, size or CORPUS[name].timed)
    with tempfile.TemporaryDirectory() as folder:
        files = written(model, calibration, Path(folder))
        optimized = {kind: Path(folder, f"{kind}-optimized.onnx") for kind in KINDS}
        sessions = [measure.session(files[kind], optimized=optimized[kind], threads=threads) for kind in KINDS]
        image = {s.get_inputs()[0].name: calibration[:1].numpy() for s in sessions}
        found = measure.seconds([partial(s.run, None, image) for s in sessions], rounds, CLOCKS[clock])
        ops = {kind: Counter(node.op_type for node in onnx.load(optimized[kind]).graph.node) for kind in KINDS}
        sizes = {kind: files[kind].stat().st_size for kind in KINDS}
    return {"ms": {kind: 1e3 * time for kind, time in zip(KINDS, found, strict=True)}, "bytes": sizes, "ops": ops}


def written(model: nn.Module, calibration: Tensor, folder: Path) -> dict[str, Path]:
    """Write the float file, qatc's and ONNX Runtime's own."""
    files = {kind: folder / f"{kind}.onnx" for kind in KINDS}
    measure.export_float(model, calibration[:2], files["float"])
    prepared = qatc.prepare(model, (calibration[:2],))
    qatc.calibrate(prepared, calibration.split(4), progress=False)
    qatc.lower(prepared, files["qatc"])
    ready = folder / "ready.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quant_pre_process(files["float"], ready, skip_symbolic_shape=True)
        reader = Images(calibration, onnx.load(ready).graph.input[0].name)
        quantize_static(
            ready, files["ort"], reader, quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    return files


def table(rows: Sequence[cells.Row]) -> list[str]:
    """Return a line per network and number of threads."""
    lines = [
        f"{'':27}{'ms':^27}{'qatc':>8}{'qatc':>8}{'KiB':^27}{'qatc':>8}\n"
        f"{'model':19}{'threads':>8}{'float':>9}{'qatc':>9}{'ORT':>9}{'/ float':>8}{'/ ORT':>8}"
        f"{'float':>9}{'qatc':>9}{'ORT':>9}{'/ float':>8}"
    ]
    for row in rows:
        head = f"{row['model']:19}{row['threads']:>8}"
        if "error" in row:
            lines.append(f"{head}  {row['error']}")
            continue
        ms, size = ([row[field][kind] for kind in KINDS] for field in ("ms", "bytes"))
        lines.append(
            head + "".join(f"{value:>9.2f}" for value in ms) + f"{ms[1] / ms[0]:>8.2f}{ms[1] / ms[2]:>8.2f}"
            + "".join(f"{value / 1024:>9.0f}" for value in size) + f"{size[1] / size[0]:>8.3f}"
        )  # fmt: skip
    return lines


def goals(rows: Sequence[cells.Row]) -> list[str]:
    """Return a line per goal."""
    done = [row for row in rows if "error" not in row]
    ratios = {(row["model"], row["threads"]): row["ms"]["qatc"] / row["ms"]["ort"] for row in done}
    slower = [f"{model} ({threads}): {r:.2f}" for (model, threads), r in ratios.items() if r > GOAL_RATIO]
    lines = [f"over {GOAL_RATIO:.2f} of ONNX Runtime's own: {', '.join(slower) or 'none'} of {len(done)} (goal: none)"]
    if ratios:
        lines.append(f"median of qatc / ORT: {statistics.median(ratios.values()):.2f}")
    sizes = {row["bytes"]["qatc"] / row["bytes"]["float"] for row in done if row["model"] == SIZED}
    return lines + [f"{SIZED}: int8 file {size:.3f} of the float one (goal: {GOAL_SIZE})" for size in sorted(sizes)]


def differences(rows: Sequence[cells.Row]) -> list[str]:
    """Return, for each network, the operators that the two optimized graphs have in different numbers."""
    lines = []
    for row in {row["model"]: row for row in rows if "error" not in row}.values():
        ours, theirs = Counter(row["ops"]["qatc"]), Counter(row["ops"]["ort"])
        changed = [f"{op} {ours[op]}/{theirs[op]}" for op in sorted({*ours, *theirs}) if ours[op] != theirs[op]]
        lines.append(f"{row['model']}, qatc/ORT: {', '.join(changed) or 'the same operators'}")
    return lines


def markdown(rows: Sequence[cells.Row], clock: str) -> str:
    """Return the table as a page of the documentation."""
    return "\n".join(
        [
            "# How fast the files for ONNX Runtime run\n",
            "Written by `tools/bench/latency --write docs/latency.md`: qatc's file, ONNX Runtime's own static"
            "\nquantization (QDQ, uint8 and int8 per channel) and the float file take turns; one image, medians of"
            f"\n{clock} time.\n",
            "```", *table(rows), *goals(rows), "```\n",
            "Operators of the two optimized graphs that differ in number:\n",
            *(f"- {line}" for line in differences(rows)), "",
        ]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
