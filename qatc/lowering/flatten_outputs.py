"""One output per tensor, named by where it stood in what the model returns."""

import dataclasses
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from qatc import ir
from qatc.errors import LoweringError
from qatc.lowering.record_types import example
from qatc.nested import leaves, map_tensors
from qatc.pipeline import Pass

_Named = tuple[tuple[str, ...], Any]


@dataclass(frozen=True)
class FlattenOutputs(Pass):
    """Let the graph return a dict of its output tensors by name; a lone tensor stays as it is, and is `output`.

    Names are the keys of dicts and the fields of dataclasses and named tuples, joined by `_`; a name that begins with
    an index, or is that of an input, has `output_` in front. What is no tensor is dropped. A tensor that is returned
    twice has two names.
    """

    name: ClassVar[str] = "flatten-outputs"

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed. Raises `LoweringError` where no tensor is returned."""
        output = gm.graph.output_node()
        if isinstance(output.args[0], fx.Node) and ir.tensor_type(output.args[0]) is not None:
            found: list[_Named] = [((), output.args[0])]
        else:
            found = list(_tensors(gm, list(_walk(output.args[0], ()))))
        if not found:
            raise LoweringError("the model returns no tensor", remedy="return what the file is to compute")
        inputs = {str(node.target) for node in gm.graph.nodes if node.op == "placeholder"}
        names = unique_names([path for path, _ in found], inputs)
        flat = dict(zip(names, (value for _, value in found), strict=True))
        before = output.args
        output.args = (found[0][1] if names == ["output"] else flat,)
        if output.args == before:
            return False
        for node in reversed(gm.graph.nodes):
            if not node.users and _fields(node) is not None:
                gm.graph.erase_node(node)
        gm.recompile()
        return True


def output_nodes(gm: fx.GraphModule) -> dict[str, fx.Node]:
    """Return the output tensors of a graph whose outputs are flat, by name: a lone one is `output`."""
    result = gm.graph.output_node().args[0]
    return dict(result) if isinstance(result, dict) else {"output": result}  # type: ignore[dict-item]


def unique_names(paths: list[tuple[str, ...]], taken: set[str]) -> list[str]:
    """Return a name for each path, none of them twice and none of those taken."""
    names: list[str] = []
    for path in paths:
        name = re.sub(r"\W", "_", "_".join(path))
        tries = [name, f"output_{name}"] if name and not name[0].isdigit() else [f"output_{name}".rstrip("_")]
        used = {*taken, *names}
        names.append(next((t for t in tries if t not in used), "") or ir.numbered(tries[-1], used))
    return names


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[_Named]:
    """Yield the values of what an output node returns, seen through the calls that make its containers."""
    inner = _fields(value) if isinstance(value, fx.Node) else None
    if inner is not None:
        for name, item in inner:
            yield from _walk(item, (*path, *name))
    else:
        for leaf in leaves(value, ()):
            below = (*path, *(part.name for part in leaf.path))
            yield from _walk(leaf.value, below) if leaf.path else [(below, leaf.value)]


def _fields(node: fx.Node) -> list[tuple[tuple[str, ...], Any]] | None:
    """Return the parts of the container that a node makes (of a dataclass, a named tuple, a dict); None otherwise."""
    kind = node.target
    if node.op != "call_function" or not isinstance(kind, type):
        return None
    named = [((name,), value) for name, value in node.kwargs.items()]
    if issubclass(kind, Mapping) and node.args:
        return [((), node.args[0]), *named]
    fields = [f.name for f in dataclasses.fields(kind) if f.init] if dataclasses.is_dataclass(kind) else None
    fields = list(getattr(kind, "_fields", fields or ()))
    if fields or issubclass(kind, Mapping):
        return [*(((name,), value) for name, value in zip(fields, node.args, strict=False)), *named]
    if issubclass(kind, list | tuple) and len(node.args) == 1:
        return [((), node.args[0])]
    return None


def _tensors(gm: fx.GraphModule, found: list[_Named]) -> Iterator[_Named]:
    """Yield the tensors among the values; a node that gives several in a container is read part by part."""
    unknown = {v for _, v in found if isinstance(v, fx.Node) and ir.tensor_type(v) is None}
    results = _results(gm, unknown) if unknown else {}
    for path, value in found:
        if value not in unknown:
            if isinstance(value, fx.Node):
                yield path, value
            continue
        for leaf in leaves(results[value]):
            if isinstance(leaf.value, Tensor):
                node = value
                for part in leaf.path:
                    with gm.graph.inserting_before(gm.graph.output_node()):
                        get = getattr if part.attribute else operator.getitem
                        node = gm.graph.call_function(get, (node, part.key))
                ir.set_source(node, ir.source_of(value))
                yield (*path, *(part.name for part in leaf.path)), node


class _Keeper(fx.Interpreter):
    """Runs a graph and keeps what some of its nodes give."""

    def __init__(self, gm: fx.GraphModule, wanted: set[fx.Node]) -> None:
        super().__init__(gm)
        self.wanted = wanted
        self.results: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.wanted:
            self.results[n] = result
        return result


def _results(gm: fx.GraphModule, wanted: set[fx.Node]) -> dict[fx.Node, Any]:
    keeper = _Keeper(gm, wanted)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        keeper.run(*map_tensors(mode.from_tensor, example(gm)))
    return keeper.results
