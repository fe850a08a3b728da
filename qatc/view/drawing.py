"""Where nodes and edges stand in a drawing: a layer a rank from top to bottom, the longest path as a straight line.

What is beside the longest path (a skip connection, a branch) has lanes to its right, the short ones next to it, so that
lanes which start and end inside a longer one cross nothing; nodes that a pass removed from it have lanes to its left.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import networkx as nx

Graph = Any  # nx.DiGraph of node names; networkx has no types


@dataclass(frozen=True)
class Drawing:
    """`places` [nodes] is (lane, rank) of each node; `edges` are (source, target, lane), lane 0 for a straight line."""

    places: tuple[tuple[int, int], ...]
    edges: tuple[tuple[int, int, int], ...]


def drawn(
    after: Sequence[dict[str, Any]], removed: Sequence[dict[str, Any]] = (), before: Sequence[dict[str, Any]] = ()
) -> Drawing:
    """Return a drawing of the graph `after` a pass and, behind it, of the nodes of `before` that it `removed`.

    Nodes are those of `qatc.inspection.graph_data`. Edges of `before` are drawn where they touch a removed node.
    """
    names = [node["name"] for node in (*after, *removed)]
    graph: Graph = nx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from(_edges(after, set(names)))
    gone = {node["name"] for node in removed}
    line = nx.dag_longest_path(graph.subgraph([node["name"] for node in after if not node["weight"]]).copy())
    ghosts = [edge for edge in _edges(before, set(names)) if not gone.isdisjoint(edge)]
    graph.add_edges_from(ghosts)
    for component in list(nx.strongly_connected_components(graph)):
        if len(component) > 1:  # a pass turned the order of two nodes round: what was can't be drawn with what is
            graph.remove_edges_from([(a, b) for a, b in ghosts if a in component and b in component])
    ranks = _ranks(graph, {node["name"] for node in (*after, *removed) if node["weight"] or not node["type"]})
    lanes, buses = _lanes(graph, ranks, line, gone)
    index = {name: i for i, name in enumerate(names)}
    follows = set(pairwise(line))
    edges = tuple(
        (index[a], index[b], 0 if (a, b) in follows or ranks[b] - ranks[a] == 1 else buses.get(a, lanes[a]))
        for a, b in graph.edges
    )
    return Drawing(tuple((lanes[name], ranks[name]) for name in names), edges)


def _edges(nodes: Iterable[dict[str, Any]], known: Collection[str]) -> list[tuple[str, str]]:
    edges = ((source, node["name"]) for node in nodes for source in node["inputs"])
    return [(source, name) for source, name in edges if source in known and name in known]


def _ranks(graph: Graph, late: Collection[str]) -> dict[str, int]:
    """Return each node's layer: one below its lowest input; weights and sizes (`late`) right above their reader."""
    ranks = {name: rank for rank, layer in enumerate(nx.topological_generations(graph)) for name in layer}
    for name in sorted(late, key=ranks.__getitem__, reverse=True):
        readers = [ranks[reader] for reader in graph.successors(name)]
        ranks[name] = min(readers, default=ranks[name] + 1) - 1
    top = min(ranks.values(), default=0)
    return {name: rank - top for name, rank in ranks.items()}


@dataclass
class _Lane:
    """Stretches of ranks that are taken, from start to end and both, in order."""

    taken: list[tuple[int, int]] = field(default_factory=list)

    def free(self, start: int, end: int) -> bool:
        at = bisect_left(self.taken, (start, end))
        before = at == 0 or self.taken[at - 1][1] < start
        return before and (at == len(self.taken) or self.taken[at][0] > end)


def _lanes(
    graph: Graph, ranks: dict[str, int], line: Sequence[str], gone: Collection[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Return the lane of each node, and that of the long edges of each node of the line that has some."""
    lanes = dict.fromkeys(line, 0)
    buses: dict[str, int] = {}
    taken: dict[int, _Lane] = defaultdict(_Lane)
    for stretch in sorted([*_long_edges(graph, ranks, line), *_chains(graph, ranks, lanes, gone)]):
        lane, side = 1, 1
        if stretch.removed:  # left of the line, or right of the branch that it was in
            owner = next((lanes[a] for a in graph.predecessors(stretch.names[0]) if a in lanes), 0)
            lane, side = (owner + 1, 1) if owner > 0 else (-1, -1)
        while not taken[lane].free(stretch.start, stretch.end):
            lane += side
        insort(taken[lane].taken, (stretch.start, stretch.end))
        for name in stretch.names:
            (buses if name in lanes else lanes)[name] = lane
    return lanes, buses


class _Stretch(NamedTuple):
    """Ranks that nodes, or an edge, want in one lane; they are served in this order."""

    removed: bool
    length: int
    start: int
    end: int
    names: list[str]


def _long_edges(graph: Graph, ranks: dict[str, int], line: Sequence[str]) -> Iterator[_Stretch]:
    following = dict(pairwise(line))
    for name in line:
        far = [ranks[b] for b in graph.successors(name) if b != following.get(name) and ranks[b] - ranks[name] > 1]
        if far:
            start, end = ranks[name] + 1, max(far) - 1
            yield _Stretch(False, end - start, start, end, [name])


def _chains(graph: Graph, ranks: dict[str, int], line: Collection[str], gone: Collection[str]) -> Iterator[_Stretch]:
    """Yield the nodes beside the line, those together of which each is the one that the one before is there for."""
    chains: dict[str, list[str]] = {}
    for name in sorted((name for name in graph if name not in line), key=ranks.__getitem__):
        like = [a for a in graph.predecessors(name) if (a in gone) == (name in gone)]
        joins = len(like) == 1 and like[0] in chains and _leads_to(name, like[0], graph, ranks, gone)
        chains[name] = chains[like[0]] if joins else []
        chains[name].append(name)
    for chain in {id(chain): chain for chain in chains.values()}.values():
        start, own = ranks[chain[0]], ranks[chain[-1]]
        end = max([own, *(ranks[b] - 1 for b in graph.successors(chain[-1]))])
        yield _Stretch(chain[0] in gone, end - start, start, end, chain)


def _leads_to(name: str, source: str, graph: Graph, ranks: dict[str, int], gone: Collection[str]) -> bool:
    """Say whether this is the only reader of its kind, removed or not, and those of the other kind are right below."""
    others = [reader for reader in graph.successors(source) if reader != name]
    return all((b in gone) != (source in gone) and ranks[b] - ranks[source] == 1 for b in others)
