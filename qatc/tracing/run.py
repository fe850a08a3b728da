"""One run of the capture: fake inputs in, a graph with types out."""

import contextlib
import enum
import inspect
import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode

from qatc.arguments import Arguments, batch_size
from qatc.ir import TensorType, set_tensor_type
from qatc.nested import leaves, map_tensors, tensors
from qatc.tracing.capture import Capture
from qatc.tracing.opaque import Opaque
from qatc.tracing.patches import seen_by
from qatc.tracing.sizes import Sizes, symbolic

# So many decisions on sizes are a program of their own: the graph is better off with the example's sizes.
_MOST_DECISIONS = 100


class Open(enum.Enum):
    """Which sizes of the inputs are symbols in a run; all others are those of the example."""

    NONE = enum.auto()
    BATCH = enum.auto()
    ALL = enum.auto()


def batch_is_fixed(root: nn.Module) -> bool:
    """Say whether a model declares that it takes batches of the example's size alone."""
    return getattr(root, "batch_is_fixed", False) is True


_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


def run(
    root: nn.Module, inputs: Arguments, opaque: dict[str, Opaque], which: Open, *, training: bool = False
) -> Capture:
    """Return the capture of the model on fake inputs, some sizes of which are open.

    The model is as it was afterwards, whatever its code keeps on itself.
    """
    sizes = Sizes(_MOST_DECISIONS if which is Open.ALL else math.inf, watched=which is Open.ALL)
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=sizes)
    capture = Capture(root, sizes, mode, opaque)
    with _unchanged(root, training):
        fake = _placeholders(capture, root, inputs, which)
        with mode, enable_python_dispatcher(), torch.enable_grad(), seen_by(capture), capture:
            result = root(*fake.args, **fake.kwargs)
        capture.output(result)
    for node, tensor in capture.fakes.items():
        set_tensor_type(node, _type(tensor, sizes))
    _drop_dead(capture.graph)
    return capture


def _placeholders(capture: Capture, root: nn.Module, inputs: Arguments, which: Open) -> Arguments:
    """Add a placeholder for each argument given, and return the arguments with fake tensors."""
    bound = inspect.signature(root.forward).bind(*inputs.args, **inputs.kwargs)
    batch = batch_size(bound.arguments)
    for name, value in bound.arguments.items():
        parameter = bound.signature.parameters[name]
        star = _STARS.get(parameter.kind, "")
        fakes = map_tensors(lambda t: _fake(capture, t, batch, which), value)
        given = [(path, fake) for path, fake in tensors(fakes) if fake.dim()]
        bound.arguments[name] = fakes
        plain = not (star or tensors(value))
        node = capture.node("placeholder", star + name, (value,) if plain else (), path=name)
        if plain:
            _expect(capture, node, value)
        else:
            capture.given += _numbers_in(name, value)
        capture.bind(fakes, node)
        for path, fake in given:
            full = f"{name}.{path}" if path else name
            is_batch = fake.shape[0] not in (0, 1) and _size(capture.sizes, fake.shape[0]) == max(batch or 0, 2)
            for symbol, dim in capture.sizes.name_sizes(fake, full, is_batch):
                if symbol not in capture.nodes:
                    capture.set_node(symbol, (fake, dim))
    return Arguments(bound.args, bound.kwargs)


def _expect(capture: Capture, node: fx.Node, value: Any) -> None:
    """Let the graph refuse another value of an argument than the one that it is made for."""
    same = operator.is_ if value is None else operator.eq
    holds = capture.node("call_function", same, (node, value))
    message = f"the model was prepared for {node.target}={value!r}"
    capture.node("call_function", torch._assert, (holds, message))


def _numbers_in(name: str, value: Any) -> list[str]:
    """Return a line for each number beside the tensors in a container, which the model may or may not have read."""
    found = (leaf for leaf in leaves(value) if isinstance(leaf.value, bool | int | float | str))
    return [f"the graph is made for {name}.{leaf.name}={leaf.value!r}" for leaf in found]


def _size(sizes: Sizes, size: Any) -> int:
    return sizes.number(sizes.expression(size))


def _fake(capture: Capture, tensor: Tensor, batch: int | None, which: Open) -> Tensor:
    """Return a fake of an input; a batch of one is taken for two, since sizes of one are constants to torch."""
    if not tensor.dim():
        return symbolic(capture.sizes, capture.fake_mode, tensor, [])
    in_batch = tensor.shape[0] == batch
    if in_batch and batch == 1 and not batch_is_fixed(capture.root):
        tensor = torch.cat([tensor, tensor])
    channels = 1 if tensor.dim() >= 4 else None
    dynamic = [in_batch and which is not Open.NONE]
    dynamic += [which is Open.ALL and dim != channels for dim in range(1, tensor.dim())]
    return symbolic(capture.sizes, capture.fake_mode, tensor.detach(), dynamic)


def _type(tensor: Tensor, sizes: Sizes) -> TensorType:
    """Return a fake tensor's type: sizes that follow the batch, or values, are unknown, others are the example's."""
    shape = []
    for size in tensor.shape:
        expression = sizes.expression(size)
        open_ = sizes.follows_batch(expression) or not expression.free_symbols <= sizes.values().keys()
        shape.append(None if open_ else sizes.number(expression))
    return TensorType(tensor.dtype, tuple(shape))


def _drop_dead(graph: fx.Graph) -> None:
    """Remove what nothing reads: parts of results, sizes, and computations that only decided something."""
    for node in reversed(graph.nodes):
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        may_act = (
            name.endswith("_")
            or name in ("setitem", "apply", "_assert")
            or (name.startswith("i") and not name.startswith("is"))
        )
        if not node.users and node.op in ("call_function", "call_method", "get_attr") and not may_act:
            if node.kwargs.get("inplace") or "out" in node.kwargs:
                continue
            graph.erase_node(node)


@contextlib.contextmanager
def _unchanged(root: nn.Module, training: bool) -> Iterator[None]:
    """Run the block with the model in one mode and no gradients to keep; then give it back everything it had."""
    before = [(module, _shallow(module.__dict__)) for module in root.modules()]
    wanted = [(p, p.requires_grad) for p in root.parameters()]
    # Fake tensors of one element know its value, and writing to them (a BatchNorm's counter) writes to the model's.
    single = [(buffer, buffer.clone()) for buffer in root.buffers() if buffer.numel() == 1]
    for parameter, _ in wanted:
        parameter.requires_grad_(False)
    root.train(training)
    try:
        yield
    finally:
        for module, state in before:
            module.__dict__.clear()
            module.__dict__.update(state)
        for buffer, value in single:
            buffer.copy_(value)
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)


def _shallow(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a module's attributes, with containers of their own, so that what is put into one later is not in it."""
    return {k: v.copy() if type(v) in (dict, list, set) else v for k, v in state.items()}
