"""Runs of a bench, each in a process of its own and noted in a file at once, so that an interrupted bench goes on."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
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
) -> list[Row]:
    """Return a row per cell, in order; `command` gives the arguments of the process that prints it as JSON."""
    known = read(path, fields)
    with tqdm(total=len(cells), disable=None, unit="cell") as bar:
        for cell in cells:
            bar.set_description(" ".join(cell))
            if cell not in known:
                known[cell] = {**dict(zip(fields, cell, strict=True)), **_measured(command(cell), limit)}
                if path is not None:
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(known[cell]) + "\n")
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
