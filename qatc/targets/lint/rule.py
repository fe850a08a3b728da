"""What a lint rule is and what it finds."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from qatc.targets.lint.graph import GraphView, Node

# An error: the runtime refuses the file or computes other values. A warning: part of it runs in float, or costs more,
# and the file could be otherwise. A note: what the runtime does, and no file can change.
Severity = Literal["error", "warning", "note"]

Violations = Iterator[tuple[Node, str]]


@dataclass(frozen=True)
class Finding:
    """One place in a file where a published rule of the target is broken."""

    rule: str
    severity: Severity
    node: str
    message: str

    def __str__(self) -> str:
        """One line, the rule first so that a list of findings sorts by rule."""
        return f"{self.rule} {self.severity} at {self.node}: {self.message}"


@dataclass(frozen=True)
class LintRule:
    """A published rule of a target and the function that finds where a graph breaks it."""

    id: str
    severity: Severity
    summary: str
    source: str
    check: Callable[[GraphView], Iterable[tuple[Node, str]]]
