"""What `qatc lower` says of the model that it wrote: how much is quantized, and what is not, by reason."""

from collections import Counter
from collections.abc import Iterable

from qatc.report import Report, ReportRow

_MOST_LINES = 10


def summary(report: Report) -> list[str]:
    """Return a line on the whole, one on calls that were taken apart, and one for each reason why ops are float."""
    by_reason: dict[str, list[ReportRow]] = {}
    for row in report.rows:
        if not row.quantized:
            by_reason.setdefault(row.reason, []).append(row)
    ordered = sorted(by_reason.items(), key=lambda item: -len(item[1]))
    lines = [f"  {len(rows)}: {_kinds(rows)}: {reason} ({_places(rows)})" for reason, rows in ordered[:_MOST_LINES]]
    if rest := ordered[_MOST_LINES:]:
        lines.append(f"  {sum(len(rows) for _, rows in rest)} for {len(rest)} other reasons")
    quantized = [row for row in report.rows if row.quantized]
    weighted = sum(bool(row.weight) for row in quantized)
    head = f"quantized: {len(quantized)} of {len(report.rows)} ops, {weighted} with weights"
    return [head, *_decomposed(report), *(["float, by reason (--report has every op):", *lines] if lines else [])]


def _decomposed(report: Report) -> list[str]:
    """Return a line on the calls that became several ops: attention, einsum."""
    parts = Counter(row.part_of for row in report.rows)
    whole = [call for call, count in parts.items() if call and count > 1]
    if not whole:
        return []
    more = f" and {len(whole) - 1} more" if len(whole) > 1 else ""
    ops = sum(parts[call] for call in whole)
    return [f"taken apart: {len(whole)} calls into {ops} of these ops ({whole[0]}{more})"]


def _kinds(rows: Iterable[ReportRow]) -> str:
    counts = Counter(row.kind for row in rows)
    return ", ".join(kind for kind, _ in counts.most_common(3)) + (" and others" if len(counts) > 3 else "")


def _places(rows: list[ReportRow]) -> str:
    """Return the first op's name and place, and how many more there are."""
    first = rows[0]
    place = f" at {first.place}" if first.place and first.place not in first.name else ""
    return f"{first.name}{place}" + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
