"""Which pass was it: the graph is looked at behind each, until something is wrong with it."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from qatc.pipeline import Observer, PassEvent
from qatc.printer import diff, format_graph, format_node, shown_nodes


@dataclass(frozen=True)
class Parting:
    """The first pass behind which something is wrong, or index 0 if it was before any; `why` says what is wrong.

    `changed` are the lines that it changed, as a difference; `nodes` those of them that are there behind it.
    """

    index: int
    step: str
    why: str
    changed: str = ""
    nodes: tuple[fx.Node, ...] = ()


def first_parting(run: Callable[[Observer], object], wrong: Callable[[PassEvent], str]) -> Parting | None:
    """Run passes until `wrong` says what is; return where that was, or None if it was nowhere.

    `run` runs the passes and tells the observer that it is given of them, as `qatc.prepare` does. `wrong` returns an
    empty text while nothing is.
    """
    before = ""

    def look(event: PassEvent) -> None:
        nonlocal before
        why, text = wrong(event), format_graph(event.gm)
        if why and not before:
            raise _PartedError(Parting(event.index, event.name, why))
        if why:
            known = set(before.splitlines())
            nodes = (n for n in shown_nodes(event.gm) if n.op != "output" and format_node(n) not in known)
            raise _PartedError(Parting(event.index, event.name, why, diff(before, text), tuple(nodes)))
        before = text

    try:
        run(look)
    except _PartedError as parted:
        return parted.parting
    return None


class _PartedError(Exception):
    """Ends the run: what comes behind a wrong pass may fail for that reason alone."""

    def __init__(self, parting: Parting) -> None:
        super().__init__(parting.step)
        self.parting = parting
