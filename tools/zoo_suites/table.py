"""The table of a run, as text and as markdown, and what it comes to."""

from collections import Counter
from collections.abc import Sequence

from tools.zoo_suites.outcome import STAGES, Outcome

HEAD = ("model", "stage", "quantized", "leaves", "hidden", "forced", "prepare s", "all s", "reason")
_RIGHT = frozenset(range(2, 8))
LEGEND = (
    "stage: ok, or the one that failed; quantized: share of the multiply-adds; leaves, hidden: submodules that stay "
    "whole in float, and their weights; forced: sizes that the model's own code decides on; s: of CPU time."
)


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as lines of text."""
    lines = [HEAD, *map(_cells, outcomes)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    text = ["  ".join(_aligned(i, cell, widths[i]) for i, cell in enumerate(line)).rstrip() for line in lines]
    text.insert(1, "-" * len(text[0]))
    return "\n".join(text)


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a table of a document."""
    rule = ["--:" if i in _RIGHT else "---" for i in range(len(HEAD))]
    rows = [HEAD, rule, *map(_cells, outcomes)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _aligned(column: int, cell: str, width: int) -> str:
    return cell.rjust(width) if column in _RIGHT else cell.ljust(width)


def _cells(outcome: Outcome) -> tuple[str, ...]:
    share = "-" if outcome.share is None else f"{100 * outcome.share:.1f} %"
    return (
        outcome.name, state(outcome), share,
        str(len(outcome.leaves) or "-"), f"{outcome.hidden:,}" if outcome.hidden else "-",
        str(len(outcome.specialised) or "-"), _seconds(outcome.seconds.get("prepare")),
        _seconds(outcome.total_seconds), outcome.reason,
    )  # fmt: skip


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def state(outcome: Outcome) -> str:
    """Return `ok`, with the last stage where not all were asked for, or the stage that failed."""
    if not outcome.passed:
        return outcome.stage
    return "ok" if outcome.stage == STAGES[-1] else f"ok (to {outcome.stage})"


def summary(suite: str, outcomes: Sequence[Outcome]) -> str:
    """Return how many passed, where the others stopped, and how much is quantized."""
    passed = [outcome for outcome in outcomes if outcome.passed]
    rate = 100 * len(passed) / len(outcomes) if outcomes else 0.0
    lines = [f"{suite}: {len(passed)} of {len(outcomes)} passed ({rate:.1f} %)"]
    failed = Counter(outcome.stage for outcome in outcomes if not outcome.passed)
    if failed:
        lines.append("stopped at: " + ", ".join(f"{stage} {failed[stage]}" for stage in STAGES if failed[stage]))
    shares = sorted((outcome.share, outcome.name) for outcome in outcomes if outcome.share is not None)
    if shares:
        mean = 100 * sum(share for share, _ in shares) / len(shares)
        lines.append(
            f"multiply-adds quantized: {mean:.1f} % on average, least {100 * shares[0][0]:.1f} % in {shares[0][1]}"
        )
    needing = sum(bool(outcome.allowed) for outcome in outcomes)
    if needing:
        lines.append(f"loaded with classes or functions of their own allowed: {needing}")
    return "; ".join(lines)
