"""From the model as written to a graph: a `GraphModule` with shapes, and file and line of every op.

The only file that knows how the graph is made.
"""

import copy
import logging
import operator
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from qatc.errors import TraceError
from qatc.ir import Source, TensorType, set_source, set_tensor_type, source_of
from qatc.modules.fused import Fused
from qatc.prepared import PreparedModel
from qatc.quantizers.base import Quantizer

log = logging.getLogger("qatc")
_INTERNAL = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parent}{os.sep}")


def trace(model: nn.Module, example_inputs: Sequence[Any] | None = None) -> PreparedModel:
    """Return the graph of a copy of the model, with the tensors' types if there are example inputs.

    Raises `TraceError`, with file and line, where the model's Python depends on the values of tensors.
    """
    root = copy.deepcopy(model)
    training = {name: module.training for name, module in model.named_modules()}
    tracer = _Tracer()
    try:
        graph = tracer.trace(root.eval())
    except Exception as error:
        raise _explained(error, model) from error
    make_room(root, graph)
    gm = PreparedModel(root, graph, type(model).__name__)
    keep_unsaved_buffers(root, gm)
    for name, module in gm.named_modules():  # a BatchNorm that the user froze stays in eval mode
        module.training = training.get(name, model.training)
    if example_inputs is not None:
        record_types(gm, example_inputs)
    return gm


def make_room(root: nn.Module, graph: fx.Graph) -> None:
    """Rename members of the model that have the name of one that every graph module has (`graph`, `report`)."""
    taken = set(dir(PreparedModel)) - set(dir(nn.Module))
    kinds: tuple[dict[str, Any], ...] = (root._modules, root._parameters, root._buffers)
    for members in kinds:
        for name in taken & set(members):
            members[f"{name}_"] = members.pop(name)
            for node in graph.nodes:
                first, dot, rest = str(node.target).partition(".")
                if node.op in ("call_module", "get_attr") and first == name:
                    node.target = f"{name}_{dot}{rest}"
            log.warning("the model's member %r is called %r from here on: a graph module has its own", name, f"{name}_")


def keep_unsaved_buffers(root: nn.Module, gm: fx.GraphModule) -> None:
    """Leave out of the state_dict what the model left out: a graph module registers every buffer that it reads."""
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            if name in root.get_submodule(owner)._non_persistent_buffers_set:
                gm.get_submodule(owner)._non_persistent_buffers_set.add(name)


class _Tracer(fx.Tracer):
    """Symbolic tracing that notes the user's file and line at every node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Fused | Quantizer) or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        if (
            kind == "call_module" and not args[0] and "input" in args[1]
        ):  # layer(input=x): passes read the first argument
            named = dict(args[1])
            args = ((named.pop("input"),), named, *args[2:])
        node = super().create_node(kind, target, *args, **kwargs)
        path = target if kind in ("call_module", "get_attr", "placeholder") else self.scope.module_path
        frame = _user_frame(sys._getframe(1))
        where = (Path(frame.f_code.co_filename).name, frame.f_lineno) if frame and kind != "placeholder" else ("", 0)
        set_source(node, Source(str(path), *where))
        return node


class _Proxy(fx.Proxy):
    """A proxy for which `x += y` and `x[i] = y` are what they are, ops that overwrite x (fx records `x + y`)."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __iadd__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.iadd, (self, other), {})

    def __isub__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.isub, (self, other), {})

    def __imul__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.imul, (self, other), {})

    def __itruediv__(self, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", operator.itruediv, (self, other), {})


def _user_frame(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame that is neither torch's nor ours."""
    while frame is not None and frame.f_code.co_filename.startswith((*_INTERNAL, "<")):
        frame = frame.f_back
    return frame


def _explained(error: Exception, model: nn.Module) -> TraceError:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*_INTERNAL, "<"))]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
    depends_on_data = isinstance(error, fx.proxy.TraceError) or "Proxy" in str(error)
    if depends_on_data:
        return TraceError(
            f"{type(model).__name__} cannot be traced: its Python decides on a tensor's values or sizes",
            where=place,
            remedy="compute with torch.where or torch.cond instead of `if`, or move this part out of the model",
        )
    return TraceError(f"{type(model).__name__} cannot be traced: {type(error).__name__}: {error}", where=place)


def as_inputs(example_inputs: Any) -> tuple[Any, ...]:
    """Return example inputs as a tuple of positional arguments; a lone tensor is one argument."""
    if isinstance(example_inputs, Tensor):
        return (example_inputs,)
    return tuple(example_inputs)


def record_types(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> None:
    """Record every tensor's type by running the graph on fake tensors, at two batch sizes: what differs is the batch.

    Raises `TraceError` if the graph does not run on the inputs.
    """
    first = _types(gm, example_inputs)
    try:
        second = _types(gm, _another_batch(example_inputs))
    except TraceError:  # the model fixes its batch
        second = first
    for node, kind in first.items():
        other = second.get(node, kind)
        if kind is not None and other is not None and len(kind.shape) == len(other.shape):
            shape = tuple(a if a == b else None for a, b in zip(kind.shape, other.shape, strict=True))
            kind = TensorType(kind.dtype, shape)
        set_tensor_type(node, kind)


def _another_batch(inputs: Sequence[Any]) -> Sequence[Any]:
    def grown(value: Any) -> Any:
        return torch.cat([value, value[:1]]) if isinstance(value, Tensor) and value.dim() and len(value) else value

    return [pytree.tree_map(grown, value) for value in inputs]


class _TypeRecorder(fx.Interpreter):
    """Runs a graph and keeps the type of what each node gives."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.found: dict[fx.Node, TensorType | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        is_tensor = isinstance(result, Tensor)
        self.found[n] = TensorType(result.dtype, tuple(map(int, result.shape))) if is_tensor else None
        return result


def _types(gm: fx.GraphModule, inputs: Sequence[Any]) -> dict[fx.Node, TensorType | None]:
    training = {module: module.training for module in gm.modules()}
    recorder = _TypeRecorder(gm)
    gm.eval()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            fake = [pytree.tree_map(lambda v: mode.from_tensor(v) if isinstance(v, Tensor) else v, x) for x in inputs]
            recorder.run(*fake)
    except Exception as error:
        node = next((n for n in gm.graph.nodes if n not in recorder.found), None)
        raise TraceError(
            f"the model does not run on the example inputs: {type(error).__name__}: {str(error).splitlines()[0]}",
            where="" if node is None else f"%{node.name} {source_of(node)}",
            remedy="check the shapes and types in example_inputs",
        ) from error
    finally:
        for module, flag in training.items():
            module.training = flag
    return recorder.found
