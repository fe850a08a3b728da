"""Runs of a bench, each in a process of its own and noted in a file at once, so that an interrupted bench goes on."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

Row = dict[str, Any]
Cell = tuple[str, ...]


def read(path: Path | None, fields: Sequence[str]) -> dict[Cell, Row]:
    """Return the rows that a file has by what they are of; those that went wrong are left out, to be run again."""
    lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {tuple(row[field] for field in fields): row for row in rows if "error" not in row}


def run_all(
    cells: Sequence[Cell],
    fields: Sequence[str],
    command: Callable[[Cell], Sequence[str]],
    path: Path | None,
    limit: float,
    jobs: int = 1,
) -> list[Row]:
    """Return a row per cell, in order; `command` gives the arguments of the process that prints it as JSON.

    `jobs` is how many processes run at a time; what they take then tells nothing of how fast they are.
    """
    known = read(path, fields)
    left = [cell for cell in cells if cell not in known]
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(left), disable=None, unit="cell") as bar:
        waiting = {pool.submit(_measured, command(cell), limit): cell for cell in left}
        for done in as_completed(waiting):
            cell = waiting[done]
            known[cell] = {**dict(zip(fields, cell, strict=True)), **done.result()}
            if path is not None:
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(known[cell]) + "\n")
            bar.set_description(" ".join(cell))
            bar.update()
    return [known[cell] for cell in cells]


def _measured(arguments: Sequence[str], limit: float) -> Mapping[str, Any]:
    command = [sys.executable, "-P", "-m", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {limit:g} s"}
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode == 0 and last.startswith("{"):
        row: Row = json.loads(last)
        return row
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return {"error": reason}
