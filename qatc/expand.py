"""One call replaced by several: a Python function of the same signature, run on proxies, is what stands for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import fx, nn
from torch.fx.proxy import GraphAppendingTracer

from qatc import ir
from qatc.calls import call_name
from qatc.shapes import infer_type

Function = Callable[..., Any]


class DeclinedError(Exception):
    """The function has no simpler form for these arguments; the call stays as it is."""


class Tracer(GraphAppendingTracer):
    """Inserts what is computed with its proxies in front of a node, with types and the node's own source."""

    def __init__(self, gm: fx.GraphModule, at: fx.Node) -> None:
        super().__init__(at.graph)
        self.gm, self.at = gm, at
        self.made: list[fx.Node] = []
        self.whole = ir.part_of(at) or f"{_called(at)} {ir.source_of(at)}".rstrip()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Insert a node."""
        with self.graph.inserting_before(self.at):
            node = super().create_node(*args, **kwargs)
        source = ir.source_of(self.at)
        ir.set_source(node, replace(source, path=str(node.target)) if node.op == "get_attr" else source)
        ir.set_tensor_type(node, infer_type(node))
        ir.set_part_of(node, self.whole)
        self.made.append(node)
        return node

    def call(self, name: str, module: nn.Module, *args: Any) -> Any:
        """Return the result of a new module, which is named beside the user's module that makes the call."""
        path = ir.free_path(self.gm, ir.scoped(self.at, name))
        ir.set_module(self.gm, path, module.train(self.gm.training))
        return self.call_existing(path, *args)

    def call_existing(self, path: str, *args: Any) -> Any:
        """Return the result of the module at a path."""
        result = self.create_proxy("call_module", path, args, {})
        ir.set_source(result.node, replace(ir.source_of(self.at), path=path))
        return result

    def attribute(self, path: str) -> Any:
        """Return the parameter or buffer at a path."""
        return self.create_proxy("get_attr", path, (), {})

    def undo(self) -> None:
        """Take out again what was inserted."""
        for node in reversed(self.made):
            self.graph.erase_node(node)


def _called(node: fx.Node) -> str:
    module = ir.module_of(node)
    return call_name(node) if module is None else type(module).__name__


def tracer_of(x: fx.Proxy) -> Tracer:
    """Return what inserts the nodes computed with a proxy."""
    assert isinstance(x.tracer, Tracer)
    return x.tracer


def type_of(x: Any) -> ir.TensorType | None:
    """Return what is known of a proxy's tensor."""
    return ir.tensor_type(x.node) if isinstance(x, fx.Proxy) else None


def rank_of(x: Any) -> int | None:
    """Return the number of dimensions of a proxy's tensor, or None if it is not known."""
    kind = type_of(x)
    return None if kind is None else len(kind.shape)


def expand(function: Function, gm: fx.GraphModule, node: fx.Node) -> bool:
    """Replace the call by what the function computes of its arguments; say whether it did."""
    tracer = Tracer(gm, node)
    args, kwargs = proxied(tracer, (node.args, dict(node.kwargs)))
    try:
        result = function(*args, **kwargs)
    except (DeclinedError, TypeError):  # TypeError: the call has arguments that the function does not know
        tracer.undo()
        return False
    ir.replace(node, result.node)
    return True


def proxied(tracer: Tracer, value: Any) -> Any:
    """Return the value with its nodes as proxies."""
    match value:
        case fx.Node():
            return fx.Proxy(value, tracer)
        case tuple():
            return tuple(proxied(tracer, v) for v in value)
        case list():
            return [proxied(tracer, v) for v in value]
        case slice():
            return slice(*(proxied(tracer, v) for v in (value.start, value.stop, value.step)))
        case dict():
            return {k: proxied(tracer, v) for k, v in value.items()}
        case _:
            return value
