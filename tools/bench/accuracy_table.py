"""Tables of the rows that tools/bench/accuracy noted: one to read in a terminal, one for docs/comparison.md."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]


def table(rows: Sequence[Row]) -> list[str]:
    """Return a line per task, cell and tool: means over the seeds and their standard deviations."""
    lines = [f"{'task':<9}{'cell':<12}{'tool':<13}{'float':>7}{'simulated':>16}{'deployed':>16}"]
    for (task, cell, tool), group in _groups(rows, "task", "cell", "tool").items():
        failed = [row["error"] for row in group if "error" in row]
        base = _spread(_values(group, "float")).split("±")[0].strip()
        simulated, run = (_spread(_values(group, key)) for key in ("simulated", "deployed"))
        reason = next(iter(failed), next((row["export_error"] for row in group if "export_error" in row), ""))
        lines.append(f"{task:<9}{cell:<12}{tool:<13}{base:>7}{simulated:>16}{run:>16}  {reason[:70]}".rstrip())
    return lines


def markdown(rows: Sequence[Row]) -> list[str]:
    """Return a table per task, a line per cell, a column per tool; the best of a line in bold.

    A cell has the mean of the deployed files and its standard deviation; where there is no file, the simulation's in
    parentheses; where there is neither, a dash.
    """
    lines: list[str] = []
    for (task,), of_task in _groups(rows, "task").items():
        tools = list(dict.fromkeys(row["tool"] for row in of_task))
        base = statistics.mean({row["seed"]: row["float"] for row in of_task if "float" in row}.values())
        lines += [f"| {task}, float {base:.1f} | {' | '.join(tools)} |", "|---" * (len(tools) + 1) + "|"]
        for (cell,), of_cell in _groups(of_task, "cell").items():
            groups = {tool: group for (tool,), group in _groups(of_cell, "tool").items()}
            best = max((round(m, 1) for group in groups.values() if (m := _deployed(group)) is not None), default=None)
            written = [_written(groups.get(tool, []), best) for tool in tools]
            lines.append(f"| {cell} | {' | '.join(written)} |")
        lines.append("")
    return lines[:-1]


def _written(group: Sequence[Row], best: float | None) -> str:
    deployed = _deployed(group)
    if deployed is not None:
        spread = _spread(_values(group, "deployed"), digits=1)
        return f"**{spread}**" if round(deployed, 1) == best else spread
    simulated = _values(group, "simulated")
    return f"({_spread(simulated, digits=1)})" if simulated else "-"


def _deployed(group: Sequence[Row]) -> float | None:
    values = _values(group, "deployed")
    return statistics.mean(values) if values else None


def _groups(rows: Iterable[Row], *keys: str) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def _values(group: Iterable[Row], key: str) -> list[float]:
    return [row[key] for row in group if key in row]


def _spread(values: Sequence[float], digits: int = 2) -> str:
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"
