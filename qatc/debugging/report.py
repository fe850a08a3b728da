"""What debugging found: a row for every quantized tensor and weight, worst first, as text and as plain data."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from qatc.debugging.figures import Agreement, FileCodes, Usage, decibel, finite
from qatc.debugging.scale_history import Curve
from qatc.view.measured import Measured

WORST = 10


@dataclass(frozen=True)
class DebugRow:
    """One quantized tensor (`kind` is "activation") or one layer's weight ("weight").

    `local` is of what is quantized here against what it is made from, as it comes in the quantized run (of a weight:
    with its BatchNorm folded in). The others are of the tensor that the node gives: `accumulated` of the quantized run
    against the float run; `without` of what it would be if this place alone were not quantized, against the float run;
    `added` of what it is against that, the power being the float run's.
    """

    node: str
    kind: str
    path: str
    location: str
    spec: str
    local: Agreement
    accumulated: Agreement
    without: Agreement
    added: Agreement
    usage: Usage
    file: FileCodes | None = None
    scales: Curve = ()

    @property
    def place(self) -> str:
        """The path in the user's model, and file and line."""
        return " ".join(filter(None, (self.path, self.location)))

    @property
    def drop(self) -> float:
        """By how many dB quantizing this place lowers the SQNR of its tensor."""
        before, after = self.without.sqnr, self.accumulated.sqnr
        return 0.0 if before == after else before - after

    @property
    def rank(self) -> float:
        """The error that this place adds, as a share of the signal; of one that is no number, infinite."""
        return math.inf if math.isnan(self.added.noise) else self.added.noise

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data; what is no finite number is None."""
        return {
            "node": self.node, "kind": self.kind, "path": self.path, "location": self.location, "spec": self.spec,
            "local_sqnr": finite(self.local.sqnr), "accumulated_sqnr": finite(self.accumulated.sqnr),
            "sqnr_without": finite(self.without.sqnr), "drop": finite(self.drop),
            "added": finite(self.rank), "cosine": finite(self.accumulated.cosine),
            "data": [finite(end) for end in self.usage.data], "grid": [finite(end) for end in self.usage.grid],
            "clipped": self.usage.clipped, "codes_used": self.usage.codes_used,
            "histogram": None if self.usage.histogram is None else asdict(self.usage.histogram),
            "file": None if self.file is None else asdict(self.file),
            "scales": [list(point) for point in self.scales],
        }  # fmt: skip

    def measured(self) -> Measured:
        """Return what a page shows of this node: its histogram, figures and curves."""
        figures = {
            "local SQNR, dB": finite(self.local.sqnr), "accumulated SQNR, dB": finite(self.accumulated.sqnr),
            "SQNR without it, dB": finite(self.without.sqnr),
            "cosine similarity": finite(self.accumulated.cosine),
            "not clipped, %": 100 * (1 - self.usage.clipped), "codes used, %": 100 * self.usage.codes_used,
        }  # fmt: skip
        known = {name: value for name, value in figures.items() if value is not None}
        return Measured(self.usage.histogram, known, {"scale": self.scales} if self.scales else {})


@dataclass(frozen=True)
class DebugReport:
    """What debugging found on some samples; `rows` are ordered by the error that each adds, the greatest first.

    `outputs` is of the model's outputs, quantized run against float run. `print` shows the worst ten.
    """

    rows: tuple[DebugRow, ...]
    outputs: Agreement
    batches: int
    file: str = ""

    def with_file(self, name: str, codes: Mapping[str, FileCodes]) -> "DebugReport":
        """Return the report with what an ONNX file computes, by the path of each quantized tensor."""
        rows = tuple(replace(row, file=codes.get(row.path)) if row.kind == "activation" else row for row in self.rows)
        return replace(self, rows=rows, file=name)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        outputs = {"sqnr": finite(self.outputs.sqnr), "cosine": finite(self.outputs.cosine)}
        rows = [row.to_dict() for row in self.rows]
        return {"batches": self.batches, "outputs": outputs, "file": self.file or None, "rows": rows}

    def json(self) -> str:
        """Return it as the text of a JSON file."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def measured(self) -> dict[str, Measured]:
        """Return it by node, for a page of `qatc view` to plot."""
        return {row.node: row.measured() for row in self.rows}

    def table(self, most: int | None = WORST) -> str:
        """Return the first rows as text, all if `most` is None."""
        shown = self.rows[:most]
        head = _HEAD + (("differ", "step") if self.file else ())
        table = [head, *(_cells(row, bool(self.file)) for row in shown)]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = ["  ".join(_aligned(row, widths)).rstrip() for row in table]
        more = len(self.rows) - len(shown)
        over = f"{self.batches} {_BATCHES[self.batches == 1]}"
        tail = f"outputs: SQNR {self.outputs.sqnr:.1f} dB, cosine {self.outputs.cosine:.5f}, over {over}"
        rest = [f"{more} more, which each add less"] if more else []
        return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *rest, *self._file_lines(), tail])

    def _file_lines(self) -> list[str]:
        """Return a line on the file, where there is one."""
        if not self.file:
            return []
        checks = [(row.file, row.place) for row in self.rows if row.file is not None]
        total, differing = sum(check.codes for check, _ in checks), sum(check.differing for check, _ in checks)
        text = f"{self.file}: {len(checks)} tensors, {differing} of {total} codes differ from the simulation per op"
        return [f"{text}, most at {max(checks, key=lambda c: c[0].differing)[1]}" if differing else text]

    def __str__(self) -> str:
        return self.table()


_BATCHES = ("batches", "batch")
_HEAD = ("place", "what", "grid", "adds", "drop", "local", "accumulated", "cosine", "data", "range", "clipped", "codes")


def _cells(row: DebugRow, file: bool) -> tuple[str, ...]:
    use = row.usage
    cells = (
        row.place or row.node, row.kind, row.spec, _db(decibel(row.rank, 1.0)), _db(row.drop), _db(row.local.sqnr),
        _db(row.accumulated.sqnr), f"{row.accumulated.cosine:.4f}", _range(use.data), _range(use.grid),
        f"{use.clipped:.2%}", f"{use.codes_used:.0%}",
    )  # fmt: skip
    if not file:
        return cells
    return (*cells, *(("", "") if row.file is None else (str(row.file.differing), str(row.file.step))))


def _db(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f} dB"  # no minus zero


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.3g} to {ends[1]:.3g}"


def _aligned(row: tuple[str, ...], widths: list[int]) -> list[str]:
    """Return the cells padded: texts to the left, figures to the right."""
    return [cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
