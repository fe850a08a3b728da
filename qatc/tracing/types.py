"""Tensor types by running a finished graph on fake tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from qatc.arguments import arguments_of, grown
from qatc.errors import TraceError
from qatc.ir import TensorType, set_tensor_type, source_of
from qatc.nested import map_tensors


def record_types(gm: fx.GraphModule, example_inputs: Any, another_batch: Any = None) -> None:
    """Record every tensor's type by running the graph on fake tensors, at two batch sizes: what differs is the batch.

    Where there is no example of another batch, every tensor with as many rows as the first tensor gets a row more.
    Raises `TraceError` if the graph does not run on the inputs.
    """
    for node, (first, second) in types_at_two_batches(gm, example_inputs, another_batch).items():
        set_tensor_type(node, first if first is None or second is None else merged(first, second))


def types_at_two_batches(
    gm: fx.GraphModule, example_inputs: Any, another_batch: Any = None
) -> dict[fx.Node, tuple[TensorType | None, TensorType | None]]:
    """Return every tensor's type on the inputs, and on those with another batch; see `record_types`."""
    arguments = arguments_of(example_inputs, gm.forward)
    more = grown(arguments) if another_batch is None else arguments_of(another_batch, gm.forward)
    first = _types(gm, arguments.bound(gm.forward))
    try:
        second = _types(gm, more.bound(gm.forward))
    except TraceError:  # the model fixes its batch
        second = first
    return {node: (kind, second.get(node)) for node, kind in first.items()}


def types_at(gm: fx.GraphModule, example_inputs: Any) -> dict[fx.Node, TensorType | None]:
    """Return every tensor's type on the inputs. Raises `TraceError` if the graph does not run on them."""
    return _types(gm, arguments_of(example_inputs, gm.forward).bound(gm.forward))


def merged(first: TensorType, second: TensorType) -> TensorType:
    """Return the type of a tensor from those at two batches, where the rank is the same at both."""
    if len(first.shape) != len(second.shape):
        return first
    return TensorType(first.dtype, tuple(a if a == b else None for a, b in zip(first.shape, second.shape, strict=True)))


class _TypeRecorder(fx.Interpreter):
    """Runs a graph and keeps the type of what each node gives."""

    def __init__(self, gm: fx.GraphModule, given: Mapping[str, Any]) -> None:
        super().__init__(gm)
        self.given = given
        self.found: dict[fx.Node, TensorType | None] = {}

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self.given[target.lstrip("*")] if target.lstrip("*") in self.given else args[0]

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        is_tensor = isinstance(result, Tensor)
        self.found[n] = TensorType(result.dtype, tuple(map(int, result.shape))) if is_tensor else None
        return result


def _types(gm: fx.GraphModule, inputs: Mapping[str, Any]) -> dict[fx.Node, TensorType | None]:
    training = {module: module.training for module in gm.modules()}
    gm.eval()
    recorder = _TypeRecorder(gm, {})
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            recorder.given = map_tensors(mode.from_tensor, dict(inputs))
            recorder.run()
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
