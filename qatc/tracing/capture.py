"""Runs a model's own Python on fake tensors and writes down each call as a node.

A `TorchFunctionMode` sees every public call of torch; modules that are leaves become `call_module`. The model decides
on shapes as it does on real tensors, and sizes that nothing decides on stay symbols.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from sympy import Symbol
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode

from qatc.ir import Source, set_source
from qatc.nested import map_leaves, parts, tensors
from qatc.tracing import calls
from qatc.tracing.frames import place_of, stated_source, user_place
from qatc.tracing.leaves import is_leaf
from qatc.tracing.opaque import Opaque, weights_hidden
from qatc.tracing.outcome import fake_outcome, real_outcome
from qatc.tracing.sizes import Sizes, emit

CALL = nn.Module.__call__


class UntraceableError(Exception):
    """A value that no graph can hold."""


class Mark(NamedTuple):
    """A state of the capture that can be gone back to."""

    last: fx.Node | None
    journal: int
    scopes: int


class Capture(TorchFunctionMode):
    """One run of a model. `opaque` holds the modules that could not be looked into, by path, and grows."""

    def __init__(self, root: nn.Module, sizes: Sizes, fake_mode: FakeTensorMode, opaque: dict[str, Opaque]) -> None:
        super().__init__()
        self.root, self.sizes, self.fake_mode, self.opaque = root, sizes, fake_mode, opaque
        self.graph = fx.Graph()
        self.paths = {module: path for path, module in root.named_modules()}
        self.members = dict(_members(root))
        self.nodes: dict[Any, Any] = {}  # id of a tensor, or expression of sizes -> node
        self.fakes: dict[fx.Node, Tensor] = {}
        self.alive: list[Tensor] = []  # an id stays one tensor's only while the tensor lives
        self.journal: list[tuple[Any, Any]] = []
        self.scopes = [""]
        self.paused = 0
        self.without_gradient: set[int] = set()
        self.constants: dict[str, Tensor] = {}
        self.anonymous: list[str] = []  # constants that are no member of the model
        self.attributes: list[str] = []  # constants that are members, but neither parameters nor buffers
        self.values_read: dict[str, None] = {}
        self.reads_sizes = False
        self.notes: list[str] = []
        self.given: list[str] = []
        self.checkpointed: dict[str, None] = {}  # lines about places that would recompute in backward

    # -- nodes -------------------------------------------------------------------------------------------------

    def node(self, op: str, target: Any, args: tuple[Any, ...] = (), kwargs: Any = None, path: str = "") -> fx.Node:
        """Add a node, with the user's place."""
        made = self.graph.create_node(op, target, args, kwargs or {})
        said = stated_source()
        place = ("", 0) if op == "placeholder" else (said.file, said.line) if said else user_place("run")
        set_source(made, Source(path or (said and said.path) or self.scopes[-1], *place))
        return made

    def set_node(self, key: Any, node: Any) -> None:
        """Let a tensor or an expression be this node from here on."""
        self.journal.append((key, self.nodes.get(key)))
        self.nodes[key] = node

    def bind(self, value: Any, node: fx.Node) -> None:
        """Let the tensors in a call's result be the node, or parts of it."""
        if isinstance(value, Tensor):
            self.set_node(id(value), node)
            self.alive.append(value)
            self.fakes[node] = value
            if not torch.is_grad_enabled():
                self.without_gradient.add(id(value))
            return
        for part, item in parts(value) or ():
            if tensors(item):
                get = getattr if part.attribute else calls.OPERATORS["__getitem__"]
                self.bind(item, self.node("call_function", get, (node, part.key)))

    def lowered(self, value: Any) -> Any:
        """Return an argument with nodes for tensors and sizes; an `UntraceableError` for what no graph can hold."""
        if isinstance(value, Tensor):
            return self.tensor_node(value)
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return self.size_node(self.sizes.expression(value))
        if isinstance(value, slice):
            return slice(*map(self.lowered, (value.start, value.stop, value.step)))
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, nn.Module) and value in self.paths:
            return self.node("get_attr", self.paths[value])
        if isinstance(value, torch.Size | range):
            return tuple(map(self.lowered, value))
        found = parts(value)
        if found is None:
            if value is None or value is ... or isinstance(value, (*fx.node.base_types, type)):
                return value
            raise UntraceableError(f"a {type(value).__name__} is passed on, which a graph cannot hold")
        items = {part.key: self.lowered(item) for part, item in found if not part.attribute or item is not None}
        return self.container(value, items)

    def container(self, value: Any, items: Mapping[Any, Any]) -> Any:
        """Return the container with these items: as it is where fx knows its class, else as a call of the class."""
        if type(value) in (list, tuple):
            return type(value)(items.values())
        if isinstance(value, tuple):
            named = hasattr(value, "_fields")
            values = tuple(items.values())
            return self.node("call_function", type(value), values) if named else values
        if type(value) is dict:
            return dict(items)
        if dataclasses.is_dataclass(value):
            given = {k: v for k, v in items.items() if v is not None}
            return self.node("call_function", type(value), (), given)
        return self.node("call_function", type(value), (dict(items),))

    def tensor_node(self, tensor: Tensor) -> fx.Node:
        """Return the node of a tensor; one that was not computed here is a member of the model, or a constant."""
        node: fx.Node | None = self.nodes.get(id(tensor))
        if node is None:
            path = self.members.get(id(tensor))
            if path is None:
                if isinstance(tensor, FakeTensor):
                    raise UntraceableError("a tensor was made by an operation that cannot be seen")
                path = f"_constant{len(self.constants)}"
                self.anonymous.append(path)
            elif not isinstance(tensor, nn.Parameter) and not _is_buffer(self.root, path):
                self.attributes.append(path)
            if not isinstance(tensor, nn.Parameter):
                self.constants.setdefault(path, tensor)
            node = self.node("get_attr", path, path=path)
            self.bind(tensor, node)
            self.without_gradient.discard(id(tensor))
        if id(tensor) in self.without_gradient and torch.is_grad_enabled() and tensor.is_floating_point():
            node = self.node("call_method", "detach", (node,))  # computed in a block of torch.no_grad()
            self.bind(tensor, node)
            self.without_gradient.discard(id(tensor))
        return node

    def size_node(self, expression: Any) -> Any:
        """Return a node, or a number, for an expression of sizes."""
        if expression.is_number:
            return emit(expression, self.symbol_node)
        if expression not in self.nodes:
            found = self.symbol_node(expression) if isinstance(expression, Symbol) else None
            self.set_node(expression, emit(expression, self.symbol_node) if found is None else found)
        known = self.nodes[expression]
        return self.read_size(*known) if isinstance(known, tuple) else known

    def symbol_node(self, symbol: Symbol) -> fx.Node:
        """Return the node that reads a size of an input."""
        known = self.nodes.get(symbol)
        if known is None:
            raise UntraceableError(f"the size {symbol} depends on the values of a tensor")
        if isinstance(known, tuple):
            known = self.read_size(*known)
            self.set_node(symbol, known)
        return known

    def read_size(self, tensor: Tensor, dim: int) -> fx.Node:
        """Return a node for a size of a tensor."""
        return self.node("call_method", "size", (self.nodes[id(tensor)], dim))

    # -- going back ---------------------------------------------------------------------------------------------

    def mark(self) -> Mark:
        """Return the present state."""
        return Mark(next(iter(reversed(self.graph.nodes)), None), len(self.journal), len(self.scopes))

    def back_to(self, mark: Mark) -> None:
        """Forget everything since the mark."""
        while len(self.journal) > mark.journal:
            key, before = self.journal.pop()
            if before is None:
                self.nodes.pop(key, None)
            else:
                self.nodes[key] = before
        for node in list(reversed(self.graph.nodes)):
            if node is mark.last:
                break
            self.fakes.pop(node, None)
            self.graph.erase_node(node)
        del self.scopes[mark.scopes :]

    # -- calls of torch -----------------------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a call, and write it down if it gives a tensor."""
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        overwrites = calls.overwrites(func, kwargs) and bool(tensors((args, kwargs)))
        measures = name in calls.TAKES_NUMBERS and map_leaves(self.sizes.example, args) is not args
        early = overwrites or measures
        operands = (self.lowered(args), self.lowered(kwargs)) if early else None  # as they are before
        versions = [(t, t._version) for _, t in tensors((args, kwargs))]
        self.sizes.asserting = func is torch._assert
        result = func(*(map_leaves(self.sizes.example, args) if measures else args), **kwargs)
        self.sizes.asserting = False
        if not tensors(result) and name != "__setitem__":
            self.note_reading(func, args, result)
            return result
        if name in calls.SILENT:
            return result
        if operands is None:
            try:
                operands = self.lowered(args), self.lowered(kwargs)
            except UntraceableError:
                if versions:
                    raise
                return self.made_of_nothing(func, args, kwargs)
        if overwrites and not torch.is_grad_enabled():
            operands = self.detached(*operands)
        op, target, args, kwargs = calls.written(func, *operands)
        if target is calls.OPERATORS["__setitem__"]:
            self.node(op, target, args, kwargs)
            return result
        result = fresh(result, versions)
        self.bind(result, self.node(op, target, args, kwargs))
        return result

    def detached(self, args: Any, kwargs: Any) -> Any:
        """Return the operands of a call that overwrites a tensor in a block of torch.no_grad(), as it reads them.

        The graph runs with gradients: a running average would drag the history of all steps along.
        """

        def read(node: fx.Node) -> fx.Node:
            tensor = self.fakes.get(node)
            if node is written or tensor is None or not tensor.is_floating_point():
                return node
            return self.node("call_method", "detach", (node,))

        written = kwargs.get("out", next(iter((*args, *kwargs.values()))))
        return fx.map_arg(args, read), fx.map_arg(kwargs, read)

    def note_reading(self, func: Any, args: Any, result: Any) -> None:
        """Note what a call told the model's Python: sizes, or the values of constants."""
        if calls.reads_sizes(func):
            self.reads_sizes = True
            for tensor, dim, size in calls.sizes_read(func, args, result):
                expression = self.sizes.expression(size)
                if id(tensor) in self.nodes and expression not in self.nodes and not expression.is_number:
                    self.set_node(expression, (tensor, dim))
        elif getattr(func, "__name__", "") in calls.READS_VALUES:
            file, line = user_place("run")
            self.values_read[f"{file}:{line}"] = None

    def made_of_nothing(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """Return the constant that a call makes of values that a graph cannot hold (an array of numpy's)."""
        with unset_fake_temporarily():
            made: Tensor = func(*args, **kwargs)
        self.alive.append(made)
        return made

    def note_checkpoint(self) -> None:
        """Note that what is called next is recomputed in backward, which the graph does not do."""
        file, line = user_place("run")
        self.checkpointed[
            f"the activation checkpointing at {file}:{line} is not kept, every activation is stored: run the prepared "
            "model inside torch.utils.checkpoint.checkpoint instead"
        ] = None

    # -- calls of modules ---------------------------------------------------------------------------------------

    def call_module(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run a module: as a node if it is a leaf, else looking into it; as a node after all if that fails."""
        module = getattr(module, "_orig_mod", module)  # torch.compile's wrapper
        path = self.paths.get(module)
        if self.paused or path is None:
            return CALL(module, *args, **kwargs)
        if path in self.opaque or (path and is_leaf(module)):
            return self.leaf(module, path, args, kwargs)
        mark = self.mark()
        self.scopes.append(path)
        try:
            return CALL(module, *args, **kwargs)
        except Exception as error:
            if not path:
                raise
            self.back_to(mark)
            self.opaque[path] = Opaque.of(path, module, error, place_of(error), weights_hidden(module))
            try:
                return self.leaf(module, path, args, kwargs)
            except Exception:  # nor does it run alone: the first failure is told, and the caller may become the leaf
                del self.opaque[path]
                raise error from None
        finally:
            del self.scopes[mark.scopes :]

    def leaf(self, module: nn.Module, path: str, args: Any, kwargs: Any) -> Any:
        """Run a module without looking into it, and write one node."""
        if not args and "input" in kwargs:  # layer(input=x): passes read the first argument
            kwargs = dict(kwargs)
            args = (kwargs.pop("input"),)
        operands = self.lowered(args), self.lowered(kwargs)
        versions = [(t, t._version) for _, t in tensors((args, kwargs))]
        with self.pause():
            result = fake_outcome(module, args, kwargs) if path not in self.opaque else None
            if result is None:
                result = real_outcome(module, args, kwargs, self.sizes)
            result = fresh(result, versions)
        self.bind(result, self.node("call_module", path, *operands, path=path))
        return result

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Write nothing down inside the block."""
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1

    # -- the result ---------------------------------------------------------------------------------------------

    def output(self, value: Any) -> None:
        """Write the model's result; what in it no graph can hold is left out, with a note."""

        def held(leaf: Any) -> Any:
            try:
                if not isinstance(leaf, Tensor | torch.SymInt | torch.SymFloat):
                    self.lowered(leaf)
            except UntraceableError:
                self.notes.append(f"the result holds a {type(leaf).__name__}, which is left out")
                return None
            return leaf

        self.graph.output(self.lowered(map_leaves(held, value)))


def fresh(result: Any, versions: list[tuple[Tensor, int]]) -> Any:
    """Return the result with an alias for each tensor that a call gave back as it was.

    An op that does nothing in eval mode (dropout) gives its input back; what reads its result must not be mixed up with
    what reads its input.
    """
    unchanged = {id(tensor) for tensor, version in versions if tensor._version == version}
    return map_leaves(
        lambda leaf: torch.ops.aten.alias(leaf) if isinstance(leaf, Tensor) and id(leaf) in unchanged else leaf, result
    )


def _is_buffer(root: nn.Module, path: str) -> bool:
    owner, _, name = path.rpartition(".")
    return name in root.get_submodule(owner)._buffers


def _members(root: nn.Module) -> Iterator[tuple[int, str]]:
    """Yield id and path of the model's tensors; parameters and buffers before tensors kept as attributes."""
    attributes, named = [], []
    for path, module in root.named_modules():
        prefix = f"{path}." if path else ""
        for name, value in module.__dict__.items():
            if isinstance(value, Tensor):
                attributes.append((id(value), prefix + name))
        for own in (module._buffers, module._parameters):
            named += [(id(value), prefix + name) for name, value in reversed(own.items()) if value is not None]
    yield from attributes
    yield from reversed(named)
