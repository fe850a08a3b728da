"""The forms in which a graph is written: its text, JSON, and GraphML for whatever draws graphs."""

import json
from collections.abc import Callable
from typing import Any

import networkx as nx
from torch import fx

from qatc.inspection.graph_data import GraphData, NodeData, graph_data
from qatc.printer import format_graph

_ENCODER = json.JSONEncoder(check_circular=False)


def as_json(graph: GraphData) -> str:
    """Return the graph as JSON, a node a line."""
    nodes = _ENCODER.encode(graph["nodes"])[1:-1]  # all in one call of C; no string holds a bare quote
    return '{"nodes": [\n' + nodes.replace('}, {"name": ', '},\n{"name": ') + "\n]}\n"


def as_graphml(graph: GraphData) -> str:
    """Return the graph as GraphML (http://graphml.graphdrawing.org): an edge from each node to each of its readers.

    A node's attributes are those of `graph_data` that it has: what is empty is left out, the names in `replaces` are
    joined by blanks, and a range is two numbers, `low` and `high`.
    """
    drawn: nx.DiGraph[str] = nx.DiGraph()
    for node in graph["nodes"]:
        drawn.add_node(node["name"], **_attributes(node))
    drawn.add_edges_from((read, node["name"]) for node in graph["nodes"] for read in node["inputs"])
    return "\n".join(nx.generate_graphml(drawn)) + "\n"


def _attributes(node: NodeData) -> dict[str, Any]:
    found = {name: value for name, value in node.items() if name not in ("name", "inputs", "range", "replaces")}
    low, high = node["range"] or (None, None)
    found |= {"replaces": " ".join(node["replaces"]), "low": low, "high": high}
    return {name: value for name, value in found.items() if value is not None and value != ""}


FORMATS: dict[str, Callable[[fx.GraphModule], str]] = {
    "text": format_graph,
    "json": lambda gm: as_json(graph_data(gm)),
    "graphml": lambda gm: as_graphml(graph_data(gm)),
}
