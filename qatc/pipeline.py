"""What a pass is, and a pipeline: passes in order, checked before any model is seen and after every pass."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

from torch import fx

from qatc.collection import postponed_collection
from qatc.errors import InvariantError, PassOrderError
from qatc.invariants import Invariant
from qatc.ir import source_of
from qatc.printer import format_node


@dataclass(frozen=True)
class Pass:
    """A rewrite of the graph, in place. Its fields are its options; it keeps no state between runs.

    `requires` must hold before, `ensures` hold after, `breaks` may no longer hold after.
    """

    name: ClassVar[str]
    requires: ClassVar[tuple[Invariant, ...]] = ()
    ensures: ClassVar[tuple[Invariant, ...]] = ()
    breaks: ClassVar[tuple[Invariant, ...]] = ()

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed. Each pass defines its own."""
        raise NotImplementedError

    @property
    def options(self) -> str:
        """The fields as text, `times=3 target=tensorrt`; a pass may say it shorter."""
        return " ".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))

    def __str__(self) -> str:
        return f"{self.name} {self.options}".rstrip()


@dataclass(frozen=True)
class PassEvent:
    """What an observer is told after a pass, and of index 0 before the first: of what the graph is from.

    `passes` are the names of those that this run is to run, in order.
    """

    index: int
    name: str
    gm: fx.GraphModule
    changed: bool
    seconds: float
    options: str = ""
    passes: tuple[str, ...] = ()

    @property
    def last(self) -> bool:
        """Whether no other pass follows."""
        return self.index == len(self.passes)


Observer = Callable[[PassEvent], None]


@dataclass(frozen=True)
class Pipeline:
    """Passes in an order in which each finds what it requires; a `PassOrderError` if it is not one.

    `holds` are invariants of the graphs that it is given, which passes of another pipeline ensured.
    """

    passes: tuple[Pass, ...]
    holds: tuple[Invariant, ...] = ()

    def __post_init__(self) -> None:
        known: set[Invariant] = set(self.holds)
        broken: dict[Invariant, str] = {}
        for position, step in enumerate(self.passes):
            for needed in step.requires:
                if needed not in known:
                    why = f"which {broken[needed]!r} breaks" if needed in broken else "which no earlier pass ensures"
                    raise PassOrderError(
                        f"pass {step.name!r} (position {position}) requires {needed.name!r}, {why}",
                        remedy=self._remedy(needed, step, broken.get(needed)),
                    )
            known = (known - set(step.breaks)) | set(step.ensures)
            broken |= dict.fromkeys(step.breaks, step.name)

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    @postponed_collection()
    def begin(self, gm: fx.GraphModule, observers: Iterable[Observer], name: str, seconds: float = 0.0) -> None:
        """Tell the observers of the graph that the passes are to begin with; `name` says where it comes from."""
        _tell(observers, PassEvent(0, name, gm, True, seconds, passes=tuple(step.name for step in self.passes)))

    @postponed_collection()
    def run(self, gm: fx.GraphModule, observers: Iterable[Observer] = (), *, until: str | None = None) -> None:
        """Run the passes (up to and with the one named `until`), checking the graph after each that changed it."""
        names = [step.name for step in self.passes]
        if until is not None and until not in names:
            raise PassOrderError(f"no pass is named {until!r}", remedy=f"the passes are: {', '.join(names)}")
        observers = tuple(observers)
        if until is not None:
            names = names[: names.index(until) + 1]
        known: set[Invariant] = set(self.holds)
        for index, step in enumerate(self.passes[: len(names)], start=1):
            start = time.perf_counter()
            changed = step.run(gm)
            known = (known - set(step.breaks)) | set(step.ensures)
            if changed:
                gm.graph.lint()
                check_invariants(gm, known, step.name)
            seconds = time.perf_counter() - start
            _tell(observers, PassEvent(index, step.name, gm, changed, seconds, step.options, tuple(names)))

    def _remedy(self, needed: Invariant, step: Pass, breaker: str | None) -> str:
        if breaker is not None:
            return f"move {step.name!r} before {breaker!r}"
        providers = [p.name for p in self.passes if needed in p.ensures]
        return (
            f"move {providers[0]!r} before {step.name!r}" if providers else f"add a pass that ensures {needed.name!r}"
        )


def _tell(observers: Iterable[Observer], event: PassEvent) -> None:
    for observer in observers:
        observer(event)


def check_invariants(gm: fx.GraphModule, invariants: Iterable[Invariant], after: str) -> None:
    """Raise an `InvariantError` at the first node that breaks one."""
    for invariant in invariants:
        for violation in invariant.check(gm):
            location = source_of(violation.node).location
            raise InvariantError(
                f"after {after!r}: invariant {invariant.name!r} broken at %{violation.node.name}"
                f"{f' ({location})' if location else ''}: {violation.why}\n  {format_node(violation.node)}   <-- here",
                remedy=f"this is a defect of the pass {after!r}: please report it with the dump before it",
            )
