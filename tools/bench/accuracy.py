"""What quantization-aware training keeps of the accuracy, for qatc and its peers, at the same budget of steps.

    tools/bench/accuracy --resume accuracy.jsonl [--tools qatc brevitas] [--tasks glyphs] [--cells w4a4] [--seeds 5]

Every tool begins with the same float weights and sees the same data in the same order, with the same optimizer. What
counts is the accuracy of the exported file, run by ONNX Runtime. Each result is noted at once; what the file has is not
run again, but for what failed. docs/comparison.md says how each tool is set.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from tools.bench.accuracy_run import CELLS
from tools.bench.peers import TOOLS
from tools.bench.tasks import TASKS

Row = dict[str, Any]


class Job(NamedTuple):
    """One training."""

    task: str
    tool: str
    cell: str
    seed: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    args = _parser().parse_args(argv)
    jobs = [
        Job(task, tool, cell, seed)
        for task in args.tasks
        for cell in args.cells
        for tool in args.tools
        for seed in range(args.seeds)
        # No peer has scales that are powers of two; the stem at 8 bits is a row that N2D2 gives of LeNet.
        if (tool == "qatc" or not CELLS[cell].pow2) and (task == "digits" or CELLS[cell].stem is None)
    ]
    rows = {job: row for job, row in _read(args.resume).items() if "error" not in row}
    left = [job for job in jobs if job not in rows]
    with args.resume.open("a") as file, tqdm(total=len(left), disable=None, unit="run") as bar:
        for row in run_all(left, args.resume.with_suffix(".float")):
            file.write(json.dumps(row) + "\n")
            file.flush()
            rows[_job(row)] = row
            bar.set_description(" ".join(map(str, _job(row))))
            bar.update()
    print("\n".join(table([rows[job] for job in jobs])))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tools/bench/accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS, metavar="TOOL", help=", ".join(TOOLS))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=CELLS, metavar="CELL", help=", ".join(CELLS))
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="trainings of each (default: %(default)s)")
    parser.add_argument(
        "--resume", type=Path, required=True, metavar="FILE",
        help="note each result there; a folder beside it keeps the float weights",
    )  # fmt: skip
    return parser


def _job(row: Row) -> Job:
    return Job(row["task"], row["tool"], row["cell"], row["seed"])


def _read(path: Path) -> dict[Job, Row]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {_job(row): row for row in map(json.loads, lines)}


def run_all(jobs: Sequence[Job], folder: Path) -> Iterator[Row]:
    """Yield a row for each job; those of one task and tool share a process, unless one ends it."""
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.task, job.tool), []).append(job)
    for (task, tool), waiting in groups.items():
        while waiting:
            for row in _rows(task, tool, waiting, folder):
                waiting.remove(_job(row))
                yield row


def _rows(task: str, tool: str, jobs: Sequence[Job], folder: Path) -> Iterator[Row]:
    """Yield rows as a process prints them; if it ends before it has printed all, the job that it was at is an error."""
    named = [f"{job.cell}:{job.seed}" for job in jobs]
    command = [sys.executable, "-P", "-m", "tools.bench.accuracy_run", task, tool, str(folder), *named]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    count = 0
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"task"'):  # some tools print, too
                yield json.loads(line)
                count += 1
        errors = process.stderr.read() if process.stderr is not None else ""
        code = process.wait()
    finally:
        process.kill()
    if count < len(jobs):
        last = (errors.strip().splitlines() or [""])[-1]
        yield {**jobs[count]._asdict(), "error": f"the process ended with {code}: {last}"}


def table(rows: Sequence[Row]) -> list[str]:
    """Return a line per task, cell and tool: means over the seeds and their standard deviations."""
    lines = [f"{'task':<9}{'cell':<12}{'tool':<13}{'float':>7}{'simulated':>16}{'deployed':>16}"]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["cell"], row["tool"]), []).append(row)
    for (task, cell, tool), group in groups.items():
        failed = [row["error"] for row in group if "error" in row]
        base = _spread([row["float"] for row in group if "float" in row]).split("±")[0].strip()
        simulated, run = (_spread([row[key] for row in group if key in row]) for key in ("simulated", "deployed"))
        reason = next(iter(failed), next((row["export_error"] for row in group if "export_error" in row), ""))
        lines.append(f"{task:<9}{cell:<12}{tool:<13}{base:>7}{simulated:>16}{run:>16}  {reason[:70]}".rstrip())
    return lines


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f}"


if __name__ == "__main__":
    sys.exit(main())
