"""What became of each node: the step that it was born in, those that changed it, and where it went."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qatc.inspection.graph_data import GraphData


@dataclass(frozen=True)
class NodeHistory:
    """A node from step to step; steps are numbered as in a list of dumps, the traced graph is 0.

    `born` is the first step behind which it is there, `changed` are those that changed its line, `last` is the last
    behind which it is there. `removed` is the step that took it out, None if it is there to the end; `into` is the name
    of the node that took over its place or work then, `into_path` that one's path; both are empty if none did.
    """

    name: str
    path: str
    born: int
    last: int
    changed: tuple[int, ...] = ()
    removed: int | None = None
    into: str = ""
    into_path: str = ""

    def describe(self, names: Sequence[str]) -> str:
        """Return it in words, `names` being those of the steps.

        `from trace; changed by functional-to-module; fuse-conv-bn-act gave its place to %conv1 (conv1)`
        """
        parts = [f"from {names[self.born]}"]
        if self.changed:
            parts.append(f"changed by {', '.join(names[step] for step in self.changed)}")
        if self.removed is not None:
            path = f" ({self.into_path})" if self.into_path else ""
            fate = f"gave its place to %{self.into}{path}" if self.into else "took it out"
            parts.append(f"{names[self.removed]} {fate}")
        return "; ".join(parts)


def histories(steps: Iterable[tuple[int, GraphData]], count: int) -> dict[str, NodeHistory]:
    """Return the history of every node that any step has, by name and in the order of their appearance.

    `steps` are those that have a graph, each with its number, in order; those between changed nothing. `count` is the
    number of all steps.
    """
    found: dict[str, _Life] = {}
    before: Mapping[str, str] = {}
    for number, graph in steps:
        texts = {str(node["name"]): str(node["text"]) for node in graph["nodes"]}
        paths = {str(node["name"]): str(node["path"]) for node in graph["nodes"]}
        takers = {gone: node["name"] for node in reversed(graph["nodes"]) for gone in node["replaces"]}
        for name, text in texts.items():
            life = found.setdefault(name, _Life(name, number))
            life.path, life.removed, life.into = paths[name], None, ""
            if name in before and before[name] != text:
                life.changed.append(number)
        for name in before.keys() - texts.keys():
            found[name].removed = number
            found[name].into = takers.get(name, "")
        before = texts
    return {name: life.history(found, count) for name, life in found.items()}


@dataclass
class _Life:
    """A history while it is gathered."""

    name: str
    born: int
    path: str = ""
    removed: int | None = None
    into: str = ""

    def __post_init__(self) -> None:
        self.changed: list[int] = []

    def history(self, others: Mapping[str, "_Life"], count: int) -> NodeHistory:
        return NodeHistory(
            self.name, self.path, self.born, (count if self.removed is None else self.removed) - 1,
            tuple(self.changed), self.removed, self.into, others[self.into].path if self.into else "",
        )  # fmt: skip
