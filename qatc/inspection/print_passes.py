"""Printing what passes do while they run."""

import sys
from dataclasses import dataclass, field
from typing import TextIO

from qatc.errors import PassOrderError
from qatc.pipeline import PassEvent
from qatc.printer import diff, format_graph


@dataclass
class PrintPasses:
    """An observer that prints the graph after passes, each under a line that says which.

    Args:
        after: the names of the passes; empty is every pass that changed something, and the graph that they begin with.
        diff: whether to print only the lines that differ from the graph before, `-` and `+` in front.
        file: where to; standard output if not given.

    Raises:
        PassOrderError: the pipeline has no pass of a name given; before it runs any.

    """

    after: tuple[str, ...] = ()
    diff: bool = False
    file: TextIO | None = None
    _text: str = field(default="", init=False)
    _nodes: int = field(default=0, init=False)

    def __call__(self, event: PassEvent) -> None:
        """Print what the event calls for."""
        if event.index == 0:
            self._check(event.passes)
        before, nodes = self._text, self._nodes
        if event.changed:
            self._text = format_graph(event.gm)
            self._nodes = self._text.count("\n")
        begins = event.index == 0
        title = f"# {event.index:02} {event.name} {event.options}".rstrip()
        if begins:
            if not self.after and not self.diff:
                self._print(f"{title}: {self._nodes} nodes", self._text)
        elif event.name in self.after or (event.changed and not self.after):
            said = f"{nodes} -> {self._nodes} nodes" if self._text != before else "the text is the same"
            shown = diff(before, self._text) if self.diff else self._text
            self._print(f"{title}: {said if event.changed else 'no change'}", shown)

    def _check(self, passes: tuple[str, ...]) -> None:
        for name in self.after:
            if name not in passes:
                raise PassOrderError(f"no pass is named {name!r}", remedy=f"the passes are: {', '.join(passes)}")

    def _print(self, title: str, text: str) -> None:
        print(f"{title}\n{text}", file=self.file or sys.stdout)
