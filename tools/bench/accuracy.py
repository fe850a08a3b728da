"""What quantization-aware training keeps of the accuracy, for qatc and its peers, at the same budget of steps.

    tools/bench/accuracy --resume accuracy.jsonl [--tools qatc brevitas] [--tasks glyphs] [--cells w4a4] [--seeds 5]
    tools/bench/accuracy --resume accuracy.jsonl --choose-rates
    tools/bench/accuracy --resume docs/comparison/accuracy.jsonl --markdown

Every tool begins with the same float weights and sees the same data in the same order, with the same optimizer. What
counts is the accuracy of the exported file, run by ONNX Runtime. Each result is noted at once; what the file has is not
run again, but for what failed. docs/comparison.md says how each tool is set.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from tools.bench import rates
from tools.bench.accuracy_run import CELLS
from tools.bench.accuracy_table import Row, markdown, table
from tools.bench.peers import POWER_OF_TWO, TOOLS
from tools.bench.tasks import TASKS


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
        for tool in args.tools
        for cell in args.cells
        for seed in ([rates.SEED] if args.choose_rates else range(args.seeds))
        # The stem at 8 bits is a row that N2D2 gives of LeNet.
        if (tool in POWER_OF_TWO or not CELLS[cell].pow2) and (task == "digits" or CELLS[cell].stem is None)
    ]
    file = rates.RATES if args.choose_rates else args.resume
    rows = {job: row for job, row in _read(file).items() if "error" not in row}
    if args.markdown:
        print("\n".join(markdown([rows[job] for job in jobs if job in rows])))
        return 0
    left = [job for job in jobs if job not in rows]
    chosen = {} if args.choose_rates else rates.read(rates.RATES)
    if unchosen := [job for job in left if not args.choose_rates and job[:3] not in chosen]:
        print(f"no rate was chosen for {' '.join(unchosen[0][:3])}: run --choose-rates", file=sys.stderr)
        return 2
    with file.open("a") as notes, tqdm(total=len(left), disable=None, unit="run") as bar:
        for row in run_all(left, args.resume.with_suffix(".float"), chosen):
            notes.write(json.dumps(row) + "\n")
            notes.flush()
            rows[_job(row)] = row
            bar.set_description(" ".join(map(str, _job(row))))
            bar.update()
    print("\n".join(_choices(rows[job] for job in jobs) if args.choose_rates else table([rows[job] for job in jobs])))
    return 0


def _choices(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        found = row.get("error") or f"{row['rate']:g} of {row['tried']}"
        yield f"{row['task']:<9}{row['cell']:<12}{row['tool']:<13}{found}"


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
    parser.add_argument(
        "--choose-rates", action="store_true",
        help="choose the learning rates, on training images kept from the training, and note them in rates.jsonl",
    )  # fmt: skip
    parser.add_argument("--markdown", action="store_true", help="run nothing; print what is noted as Markdown")
    return parser


def _job(row: Row) -> Job:
    return Job(row["task"], row["tool"], row["cell"], row["seed"])


def _read(path: Path) -> dict[Job, Row]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {_job(row): row for row in map(json.loads, lines)}


def run_all(jobs: Sequence[Job], folder: Path, chosen: Mapping[tuple[str, str, str], Row]) -> Iterator[Row]:
    """Yield a row for each job; those of one task and tool share a process, unless one ends it.

    `chosen` has the rates by task, tool and cell, or what was said when they were to be chosen; with none of them the
    rates are what is looked for.
    """
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        if error := chosen.get(job[:3], {}).get("error"):
            yield {**job._asdict(), "error": error}
        else:
            groups.setdefault((job.task, job.tool), []).append(job)
    for (task, tool), waiting in groups.items():
        while waiting:
            for row in _rows(task, tool, waiting, folder, chosen):
                waiting.remove(_job(row))
                yield row


def _rows(
    task: str, tool: str, jobs: Sequence[Job], folder: Path, chosen: Mapping[tuple[str, str, str], Row]
) -> Iterator[Row]:
    """Yield rows as a process prints them; if it ends before it has printed all, the job that it was at is an error."""
    named = [":".join([job.cell, str(job.seed), *_rate(chosen.get(job[:3]))]) for job in jobs]
    command = [sys.executable, "-P", "-m", "tools.bench.accuracy_run", task, tool, str(folder), *named]
    count = 0
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{"task"'):  # some tools print, too
                    yield json.loads(line)
                    count += 1
            code = process.wait()
        finally:
            process.kill()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or [""])[-1]
    if count < len(jobs):
        yield {**jobs[count]._asdict(), "error": f"the process ended with {code}: {last}"}


def _rate(row: Row | None) -> list[str]:
    return [] if row is None else [str(row["rate"])]


if __name__ == "__main__":
    sys.exit(main())
