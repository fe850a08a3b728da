"""How a call that was seen is written in the graph."""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import is_tensor_method_or_property

# Python's operators on tensors, by the method that torch reports; the second table's have their operands swapped.
OPERATORS: dict[str, Callable[..., Any]] = {
    "__getitem__": operator.getitem, "__setitem__": operator.setitem, "__invert__": operator.invert,
    "__floordiv__": operator.floordiv, "__eq__": operator.eq, "__ne__": operator.ne, "__lt__": operator.lt,
    "__le__": operator.le, "__gt__": operator.gt, "__ge__": operator.ge, "__and__": operator.and_,
    "__or__": operator.or_, "__xor__": operator.xor, "__lshift__": operator.lshift, "__rshift__": operator.rshift,
    "__matmul__": operator.matmul, "__mod__": operator.mod, "__pow__": operator.pow, "__add__": operator.add,
    "__sub__": operator.sub, "__mul__": operator.mul, "__truediv__": operator.truediv, "__neg__": operator.neg,
    "__div__": operator.truediv, "__iadd__": operator.iadd, "__isub__": operator.isub, "__imul__": operator.imul,
    "__itruediv__": operator.itruediv, "__idiv__": operator.itruediv, "__ipow__": operator.ipow,
    "__imod__": operator.imod, "__ifloordiv__": operator.ifloordiv, "__iand__": operator.iand,
    "__ior__": operator.ior, "__ixor__": operator.ixor, "__abs__": operator.abs, "__pos__": operator.pos,
}  # fmt: skip
SWAPPED: dict[str, Callable[..., Any]] = {
    "__radd__": operator.add, "__rsub__": operator.sub, "__rmul__": operator.mul, "__rdiv__": operator.truediv,
    "__rtruediv__": operator.truediv, "__rpow__": operator.pow, "__rmatmul__": operator.matmul,
    "__rfloordiv__": operator.floordiv, "__rmod__": operator.mod, "__rand__": operator.and_, "__ror__": operator.or_,
    "__rxor__": operator.xor,
}  # fmt: skip

# torch reports `x + y` as the method; most code writes the operator.
PLAIN: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv, "matmul": operator.matmul,
    "pow": operator.pow, "add_": operator.iadd, "sub_": operator.isub, "mul_": operator.imul,
    "div_": operator.itruediv, "gt": operator.gt, "ge": operator.ge, "lt": operator.lt, "le": operator.le,
    "eq": operator.eq, "ne": operator.ne, "remainder": operator.mod,
}  # fmt: skip

# What changes no value: nothing is written for it.
SILENT = frozenset({"requires_grad_", "__set__", "__deepcopy__", "as_subclass", "retain_grad", "register_hook"})
# What tells the model's Python a value; known of constants alone, so the graph then holds for them only.
READS_VALUES = frozenset({
    "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "numpy", "__array__",
})  # fmt: skip
# What insists on numbers: of sizes it would make those of the example.
TAKES_NUMBERS = frozenset({"tensor", "as_tensor", "new_tensor", "asarray"})
READS_SIZES = frozenset({"size", "__len__", "numel", "nelement"})

_OPERANDS = 2
Written = tuple[str, Any, tuple[Any, ...], dict[str, Any]]


def written(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
    """Return op, target, args and kwargs of the node for a call whose tensors are nodes already."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return "call_function", getattr, (args[0], function.__self__.__name__), {}
    if name in OPERATORS:
        return "call_function", OPERATORS[name], args, kwargs
    if name in SWAPPED:
        return "call_function", SWAPPED[name], args[::-1], kwargs
    if is_tensor_method_or_property(function) or getattr(Tensor, name, None) is function:
        if name in PLAIN and len(args) == _OPERANDS and not kwargs:
            return "call_function", PLAIN[name], args, kwargs
        return "call_method", name, args, kwargs
    return "call_function", function, args, kwargs


def overwrites(function: Any, kwargs: dict[str, Any]) -> bool:
    """Say whether the call may change a tensor that it is given."""
    name = getattr(function, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or name.startswith("__i") or name == "__setitem__" or "out" in kwargs or bool(kwargs.get("inplace"))


def reads_sizes(function: Any) -> bool:
    """Say whether the call gives sizes to the model's Python."""
    name = getattr(function, "__name__", "")
    return name in READS_SIZES or (name == "__get__" and getattr(function.__self__, "__name__", "") == "shape")


def sizes_read(function: Any, args: tuple[Any, ...], result: Any) -> list[tuple[Tensor, int, Any]]:
    """Return tensor, dimension and size for each size that a call of `size` or `shape` gave."""
    if not args or not isinstance(args[0], Tensor) or getattr(function, "__name__", "") not in ("size", "__get__"):
        return []
    if isinstance(result, torch.SymInt):
        dim = args[1] if len(args) > 1 else 0
        return [(args[0], dim % args[0].dim(), result)] if isinstance(dim, int) else []
    if isinstance(result, torch.Size | tuple):
        return [(args[0], dim, size) for dim, size in enumerate(result) if isinstance(size, torch.SymInt)]
    return []
