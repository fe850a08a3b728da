"""The file's graph as it grows: operators, constants and parameters, with types where they are known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir
import torch
from onnx_ir.tensor_adapters import TorchTensor, from_torch_dtype, to_torch_dtype
from torch import Tensor, nn

from qatc.ir import BatchSize, OpenSize, TensorType

Value = onnx_ir.Value


class DeclinedError(Exception):
    """The table has no form for this call, or not with these arguments."""


@dataclass(frozen=True)
class Size:
    """A size that follows the batch, computed in the file: int64 [1]."""

    value: Value


# What an operator can be given: a value of the graph, or a constant: a number is of the first value's element type.
Input = Value | Tensor | np.ndarray[Any, Any] | Sequence[int | Size] | float | None

# What writes a call of a module: it is given the builder, the module, and what the module is called with.
Form = Callable[..., Value]

# What writes a call of a function: it is given the builder, and what the function is called with.
Function = Callable[..., Value]

_SCOPE = "qatc_scope"


class Builder:
    """Makes the nodes of one graph after another call of the model; `scope` is that call, `gives` what it gives."""

    scope: str
    gives: TensorType

    def __init__(self, root: nn.Module, form_of: Callable[[nn.Module], Form]) -> None:
        self.nodes: list[onnx_ir.Node] = []
        self._form_of = form_of
        self._paths = {module: path for path, module in root.named_modules()}
        self._named: dict[Tensor, Value] = {}
        self._sizes: dict[tuple[Value, int], Size] = {}

    def call(self, module: nn.Module, *given: Any, **named: Any) -> Value:
        """Write a module's call; raises `DeclinedError` where the table has no form for it."""
        return self._form_of(module)(self, module, *given, **named)

    def op(self, kind: str, *inputs: Input, dtype: torch.dtype | None = None, **attributes: Any) -> Value:
        """Add an operator and return its one result, of the element type given or that of its first input."""
        return self.ops(kind, 1, *inputs, dtype=dtype, **attributes)[0]

    def ops(
        self, kind: str, count: int, *inputs: Input, dtype: torch.dtype | None = None, **attributes: Any
    ) -> Sequence[Value]:
        """Add an operator and return its results."""
        given = [i for i in inputs if isinstance(i, Value)]
        like = dtype_of(given[0]) if given else self.gives.dtype
        values = [self.value(i, like) for i in inputs]
        node = onnx_ir.node(kind, values, attributes, num_outputs=count)
        set_scope(node, self.scope)
        self.nodes.append(node)
        for result in node.outputs:
            result.dtype = from_torch_dtype(dtype or like)
        return node.outputs

    def value(self, given: Input, like: torch.dtype = torch.int64) -> Value | None:
        """Return the value that an operator's input is; numbers become constants of the type of `like`."""
        if given is None or isinstance(given, Value):
            return given
        if isinstance(given, Sequence):
            if any(isinstance(size, Size) for size in given):
                parts = [size.value if isinstance(size, Size) else self.value([size]) for size in given]
                return self.op("Concat", *parts, axis=0)
            return constant(np.array(given, np.int64))
        if isinstance(given, Tensor | np.ndarray):
            return constant(given)
        return constant(torch.tensor(given, dtype=like))

    def number(self, given: float | Size, dtype: torch.dtype) -> Value:
        """Return a number, or a size, as a value without dimensions."""
        if isinstance(given, Size):
            return self.cast(typed(self.op("Squeeze", given.value, [0]), TensorType(torch.int64, ())), dtype)
        if not isinstance(given, int | float):
            raise DeclinedError
        return constant(torch.tensor(given, dtype=dtype))

    def parameter(self, path: str, tensor: Tensor) -> Value:
        """Return a parameter or buffer of the model as a constant of that name."""
        if tensor not in self._named:
            self._named[tensor] = constant(tensor.detach(), path)
        return self._named[tensor]

    def own(self, module: nn.Module, name: str) -> Value | None:
        """Return a parameter or buffer of a module as a constant named by its path; None where it has none."""
        tensor, path = getattr(module, name), self._paths[module]
        return None if tensor is None else self.parameter(f"{path}.{name}" if path else name, tensor)

    def size(self, x: Value, dim: int) -> Size:
        """Return a size of a tensor as it will be when the file runs."""
        key = (x, dim % len(shape_of(x)))
        if key not in self._sizes:
            self._sizes[key] = Size(self.op("Shape", x, dtype=torch.int64, start=key[1], end=key[1] + 1))
        return self._sizes[key]

    def cast(self, x: Value, dtype: torch.dtype) -> Value:
        """Return x in an element type."""
        if dtype_of(x) == dtype:
            return x
        return typed(self.op("Cast", x, dtype=dtype, to=from_torch_dtype(dtype)), x)

    def compare(self, kind: str, x: Input, y: Input) -> Value:
        """Return what a comparison gives, bools."""
        return self.op(kind, x, y, dtype=torch.bool)

    def where(self, condition: Value, x: Input, y: Input) -> Value:
        """Return x where the condition holds, y elsewhere; one of them may be a number."""
        dtype = next((dtype_of(i) for i in (x, y) if isinstance(i, Value)), self.gives.dtype)
        return self.op("Where", condition, self.value(x, dtype), self.value(y, dtype), dtype=dtype)

    def reshape(self, x: Value, shape: Sequence[int | None]) -> Value:
        """Return x in a shape of which at most one size is unknown."""
        if sum(size is None for size in shape) > 1 or 0 in shape:
            raise DeclinedError
        if x.const_value is not None:
            return constant(x.const_value.numpy().reshape(tuple(-1 if size is None else size for size in shape)))
        y = self.op("Reshape", x, [-1 if size is None else size for size in shape])
        y.shape = onnx_ir.Shape(shape)
        return y

    def undo(self, count: int) -> None:
        """Take out the nodes behind the first `count`."""
        for node in reversed(self.nodes[count:]):
            for position in range(len(node.inputs)):
                node.replace_input_with(position, None)
        made = {result for node in self.nodes[count:] for result in node.outputs}
        self._sizes = {key: size for key, size in self._sizes.items() if size.value not in made}
        del self.nodes[count:]


def constant(data: Tensor | np.ndarray[Any, Any], name: str | None = None) -> Value:
    """Return a constant; one without a name is named after what reads it."""
    tensor = TorchTensor(data.contiguous()) if isinstance(data, Tensor) else onnx_ir.tensor(data)
    return Value(name=name, shape=onnx_ir.Shape(data.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor)


def dtype_of(x: Value) -> torch.dtype:
    """Return the element type of a value."""
    assert x.dtype is not None
    return to_torch_dtype(x.dtype)


def shape_of(x: Value) -> tuple[int | None, ...]:
    """Return the shape of a value, None for what follows the batch; declined where not even the rank is known."""
    if x.shape is None:
        raise DeclinedError
    return tuple(size if isinstance(size, int) else None for size in x.shape)


def known(x: Value, dim: int) -> int:
    """Return a size of a value that must not follow the batch."""
    size = shape_of(x)[dim]
    if size is None:
        raise DeclinedError
    return size


def typed(y: Value, like: Value | TensorType, dims: Sequence[int | BatchSize | OpenSize | None] | None = None) -> Value:
    """Return y with the shape of another value, or with a type, and what is known of its sizes."""
    if isinstance(like, TensorType):
        sizes = like.shape if dims is None else [_dim(size) for size in dims]
        y.dtype, y.shape = from_torch_dtype(like.dtype), onnx_ir.Shape(sizes)
    else:
        y.shape = like.shape
    return y


def _dim(size: int | BatchSize | OpenSize | None) -> int | str | None:
    match size:
        case BatchSize():
            return str(size)
        case OpenSize():
            return size.name or None
    return size


def scope_of(node: onnx_ir.Node) -> str:
    """Return the path of the module that a node was made for."""
    return str(node.meta.get(_SCOPE, ""))


def set_scope(node: onnx_ir.Node, scope: str) -> None:
    """Record the path of the module that a node was made for."""
    node.meta[_SCOPE] = scope
