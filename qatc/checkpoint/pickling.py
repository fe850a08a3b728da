"""How a prepared model pickles: its graph as plain data, its modules as the objects that they are."""

from typing import Any

from torch import fx, nn

from qatc.checkpoint.graph_data import build_graph, graph_data
from qatc.checkpoint.module_data import MODULE_STATE
from qatc.checkpoint.names import Allowed
from qatc.prepared import PreparedModel

Arguments = tuple[str, list[dict[str, Any]], dict[str, Any]]

# What a GraphModule makes from its graph.
GRAPH_STATE = frozenset(PreparedModel(nn.Module(), fx.Graph()).__dict__) - MODULE_STATE - {"meta"}


def pickled(model: PreparedModel) -> Arguments:
    """Return the arguments of `unpickled` that make this model again."""
    state = {name: value for name, value in model.__dict__.items() if name not in GRAPH_STATE}
    state.pop("_compiled_call_impl", None)
    return type(model).__name__, graph_data(model), state


def unpickled(name: str, graph: list[dict[str, Any]], state: dict[str, Any]) -> PreparedModel:
    """Return the model that was pickled; whoever unpickles has trusted the whole file already."""
    model = assembled(name, state)
    model.graph = build_graph(graph, model, Allowed(everything=True))
    return model


def assembled(name: str, state: dict[str, Any]) -> PreparedModel:
    """Return a model without a graph, with this state of modules, parameters and attributes."""
    # GraphModule's own copying would register every buffer that the graph reads as a persistent one.
    model = PreparedModel(nn.Module(), fx.Graph(), name)
    model.__dict__.update(state)
    return model
