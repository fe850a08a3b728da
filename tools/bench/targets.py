"""Measures every target over many networks: codes that differ between simulation and file on each runtime at hand, what
ONNX Runtime leaves in float, what the linter says, and file sizes.

    tools/bench/targets [--models resnet18 unet] [--targets tidl] [--resume rows.jsonl] [--write FILE]

Seeded random weights and statistics, 8 images of 64x64 (96x96 for the ViT and for segmentation). Each network, target
and configuration is a process of its own with a time limit; `--resume` notes its row, and skips those that are there.
"""

import argparse
import json
import math
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import qatc
from qatc.lowering import Lowered, Verification, lower, verify_on
from qatc.lowering.verify import code_tensors, with_outputs
from qatc.runtimes.onnxruntime import ONNXRUNTIME, ONNXRUNTIME_UNOPTIMIZED
from qatc.runtimes.openvino import OPENVINO, left_in_float, precisions
from qatc.runtimes.simulator import SIMULATOR
from qatc.targets import TARGETS
from tools import measure
from tools.bench import cells
from tools.bench.corpus import BATCH, COMPARISON, CORPUS, built
from tools.models import images

CONFIGS = ("w8a8", "w8a8-pow2")
FIELDS = ("model", "target", "config")
FLOAT = ("float", "-")  # the target and configuration of the float file's row
LONGEST = 900.0
QUICK, QUICK_SIZE = ("unet", "detector"), 32
EVERYWHERE = (ONNXRUNTIME_UNOPTIMIZED.name, ONNXRUNTIME.name, SIMULATOR.name)
GOAL_SHARE = 1e-5  # of codes that may differ per op with free scales


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        "tools/bench/targets", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(CORPUS), choices=CORPUS, metavar="MODEL")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS, metavar="TARGET")
    parser.add_argument("--configs", nargs="+", default=list(CONFIGS), metavar="CONFIG", help=", ".join(CONFIGS))
    parser.add_argument("--size", type=int, help="height and width of the images")
    parser.add_argument("--quick", action="store_true", help=f"two small networks at {QUICK_SIZE}x{QUICK_SIZE}")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="note each row there, and skip what is there")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables as Markdown, too")
    parser.add_argument("--limit", type=float, default=LONGEST, help="seconds of one cell (default: %(default)g)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at a time (default: %(default)s)")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    size = args.size or (QUICK_SIZE if args.quick else None)
    if args.one:
        model, target, config = args.one
        print(json.dumps(measured(model, target, config, size)))
        return 0
    models = QUICK if args.quick else args.models
    wanted = [
        (model, *cell)
        for model in models
        for cell in (FLOAT, *((target, config) for target in args.targets for config in args.configs))
    ]
    options = ["--size", str(size)] if size else []
    rows = cells.run_all(
        wanted, FIELDS, lambda cell: ["tools.bench.targets", "--one", *cell, *options], args.resume, args.limit,
        args.jobs,
    )  # fmt: skip
    print("\n".join(line for target in args.targets for line in (target, *table(rows, target), "")))
    print("\n".join(goals(rows)))
    if args.write is not None:
        args.write.write_text(markdown(rows, args.targets), encoding="utf-8")
    return 0


def measured(name: str, target: str, config: str, size: int | None = None) -> cells.Row:
    """Return what is measured of one network, target and configuration; of the float file, its size."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what is told of a network is not what is measured
    model, calibration = built(name, size or CORPUS[name].size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        if (target, config) == FLOAT:
            measure.export_float(model, calibration[:2], path)
            return {"bytes": path.stat().st_size}
        prepared = qatc.prepare(model, (calibration[:2],), target, config)
        qatc.calibrate(prepared, calibration.split(BATCH), progress=False)
        lowered = lower(prepared.eval(), path)
        data = {lowered.proto.graph.input[0].name: images(COMPARISON, *calibration.shape[1:], seed=2).numpy()}
        own = TARGETS[target].verify.runtimes
        found = verify_on(prepared, lowered, data, tuple(dict.fromkeys((*own, *EVERYWHERE))))
        return {
            "runtimes": {run.runtime: _figures(run) for run in found.runs},
            "passed": found.passed,
            "simulated": _simulated(lowered, data) if target == ONNXRUNTIME.name else None,
            "float_layers": measure.left_in_float(path).total(),
            "openvino_float": len(left_in_float(precisions(lowered.proto))) if OPENVINO.name in own else None,
            "quantized_layers": sum(bool(row.weight) for row in prepared.report.rows),
            "errors": sum(finding.severity == "error" for finding in lowered.findings),
            "warnings": sum(finding.severity == "warning" for finding in lowered.findings),
            "bytes": path.stat().st_size,
        }


def _figures(check: Verification) -> cells.Row:
    return {
        "codes": check.codes,
        "differing": check.differing,
        "at_ties": check.at_ties,
        "step": max((t.step for t in check.tensors), default=0),
        "end_to_end": check.differing_end_to_end,
        "sqnr": None if math.isinf(check.sqnr) else round(check.sqnr, 1),
        "jitter": None if math.isinf(check.jitter_sqnr) else round(check.jitter_sqnr, 1),
    }


def _simulated(lowered: Lowered, data: dict[str, Any]) -> int:
    """Return how many codes the simulator gives otherwise than ONNX Runtime, optimized, end to end."""
    proto = with_outputs(lowered.proto, code_tensors(lowered.proto))
    ours, theirs = (runtime.session(proto)(data) for runtime in (SIMULATOR, ONNXRUNTIME))
    return sum(int(np.count_nonzero(ours[name] != theirs[name])) for name in code_tensors(lowered.proto))


def table(rows: Sequence[cells.Row], target: str) -> list[str]:
    """Return a line per network and configuration of one target."""
    sizes = {row["model"]: row.get("bytes") for row in rows if (row["target"], row["config"]) == FLOAT}
    of = [row for row in rows if row["target"] == target]
    runtimes = list(dict.fromkeys(name for row in of for name in row.get("runtimes", ())))
    lines = [
        f"{'':38}" + "".join(f"{name:^30}" for name in runtimes) + f"{'float':>8}{'lint':>8}{'file':>6}",
        f"{'model':20}{'scales':6}{'codes':>12}" + f"{'per op':>8}{'by':>3}{'in all':>11}{'dB':>8}" * len(runtimes)
        + f"{'layers':>8}{'e / w':>8}{'ratio':>6}",
    ]  # fmt: skip
    for row in of:
        head = f"{row['model']:20}{'pow2' if row['config'].endswith('pow2') else 'free':6}"
        if "error" in row:
            lines.append(f"{head}  {row['error']}")
            continue
        found, base = row["runtimes"], sizes.get(row["model"])
        left = f"{row['float_layers']}" + (f" / {row['openvino_float']}" if row["openvino_float"] is not None else "")
        lint = f"{row['errors']} / {row['warnings']}"
        lines.append(
            f"{head}{next(iter(found.values()))['codes']:>12,}"
            + "".join(_runtime(found[name]) for name in runtimes)
            + f"{left:>8}{lint:>8}"
            + (f"{row['bytes'] / base:>6.2f}" if base else f"{'-':>6}")
        )
    return lines


def _runtime(found: cells.Row) -> str:
    sqnr = "inf" if found["sqnr"] is None else f"{found['sqnr']:.1f}"
    return f"{found['differing']:>8}{found['step']:>3}{found['end_to_end']:>11}{sqnr:>8}"


def goals(rows: Sequence[cells.Row]) -> Iterator[str]:
    """Yield a line per promise, of the runtime that each target is verified on: what was measured, and was promised."""
    done = [row for row in rows if "runtimes" in row]
    own = [(row, row["runtimes"][TARGETS[row["target"]].verify.runtimes[0]]) for row in done]
    yield f"verified on the target's own runtime: {sum(row['passed'] for row in done)} of {len(done)} files (goal: all)"
    exact = [found for row, found in own if row["config"].endswith("pow2") and not found["at_ties"]]
    yield (
        f"power-of-two scales: {sum(found['end_to_end'] for found in exact)} codes differ in all, of {len(exact)} "
        "files that meet no tie (goal: 0)"
    )
    free = [found for row, found in own if not row["config"].endswith("pow2")]
    share = max((found["differing"] / found["codes"] for found in free), default=0.0)
    yield (
        f"free scales: at most {1e5 * share:.2f} codes in 100,000 differ per op, by "
        f"{max((found['step'] for found in free), default=0)}, of {len(free)} files (goal: {1e5 * GOAL_SHARE:g}, by 1)"
    )
    left = sum(row["float_layers"] for row in done if row["target"] == ONNXRUNTIME.name)
    yield f"Conv, Gemm and MatMul left in float by ONNX Runtime in files for it: {left} (goal: 0)"
    simulated = sum(row["simulated"] for row in done if row["simulated"] is not None)
    yield f"codes that the simulator has otherwise than ONNX Runtime in files for it: {simulated} (goal: 0)"
    yield f"lint errors: {sum(row['errors'] for row in done)} (goal: 0)"
    failed = [" ".join(row[field] for field in FIELDS) for row in rows if "error" in row]
    yield f"failed: {', '.join(failed) or 'none'} of {len(rows)}"


_LEGEND = """\
Written by `tools/bench/targets --write docs/targets-figures.md`: seeded random weights and statistics, 8 images. On
each runtime, *per op*: codes that differ where each op of the file is fed with the simulation's own codes, and *by* how
much; *in all*: where the file runs as it is; *dB*: its outputs against the simulation's. ONNX Runtime runs files for
another runtime in float; *simulator* is `qatc.simulator`, which runs any in integers. *Float layers*: what ONNX Runtime
(and OpenVINO, behind the slash) leaves in float. *Lint*: errors and warnings of the target's rules. *File*: size beside
the float one.
"""


def markdown(rows: Sequence[cells.Row], targets: Sequence[str]) -> str:
    """Return the tables as a page of the documentation."""
    parts = [
        "# Every target over many networks\n",
        _LEGEND,
        "```\n" + "\n".join(goals(rows)) + "\n```\n",
    ]  # fmt: skip
    parts += [f"## {target}\n\n```\n" + "\n".join(table(rows, target)) + "\n```\n" for target in targets]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
