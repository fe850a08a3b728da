"""What a name in a file may stand for: the one place that turns names into classes, functions and members.

Names also reach the Python source that fx generates from a graph, so each has a form that is a name and nothing else.
"""

import importlib
import keyword
import math
import operator
import pkgutil
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from qatc.autograd import as_applied
from qatc.errors import CheckpointError

Function = Callable[..., Any]

# Packages of which every module class may be built.
_PACKAGES = (
    "torch.nn.modules.",
    "torch.nn.utils.parametrizations.",
    "qatc.modules.",
    "qatc.quantizers.",
    "qatc.ranges.",
    "qatc.schedule.",
)
# Makers of tensors and others without a tensor argument, hence not overridable; what reads or writes files, changes
# global state or calls its arguments is left out on purpose.
_TORCH = (
    "arange", "as_strided", "as_tensor", "asarray", "empty", "empty_strided", "eye", "fill", "full", "hann_window",
    "linspace", "logspace", "normal", "ones", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like",
    "randperm", "range", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "vander", "zeros", "is_tensor",
    "result_type", "promote_types", "broadcast_shapes", "_assert", "_weight_norm",
)  # fmt: skip
_FUNCTIONAL = (
    "hardsigmoid", "hardswish", "sigmoid", "tanh", "upsample", "upsample_bilinear", "upsample_nearest", "logsigmoid",
    "_max_pool1d", "_max_pool2d", "_max_pool3d", "_adaptive_max_pool1d", "_adaptive_max_pool2d", "_adaptive_max_pool3d",
)  # fmt: skip
_OPERATORS = (
    "abs", "add", "and_", "concat", "contains", "eq", "floordiv", "ge", "getitem", "gt", "iadd", "iand", "ifloordiv",
    "ilshift", "imatmul", "imod", "imul", "index", "inv", "invert", "ior", "ipow", "irshift", "is_", "is_not", "isub",
    "itruediv", "ixor", "le", "lshift", "lt", "matmul", "mod", "mul", "ne", "neg", "not_", "or_", "pos", "pow",
    "rshift", "setitem", "sub", "truediv", "truth", "xor",
)  # fmt: skip
_BUILTINS = (getattr, len, int, float, bool, max, min, sum, abs, round)
_CALLS_ITS_ARGUMENTS = frozenset({"triplet_margin_with_distance_loss", "autocast"})

# Results that code reads from a tensor, and the fields of torch's named tuples.
_ATTRIBUTES = frozenset({
    "shape", "dtype", "device", "layout", "ndim", "itemsize", "nbytes", "requires_grad", "data", "T", "H", "mT", "mH",
    "real", "imag", "is_cuda", "is_cpu", "is_quantized", "is_sparse", "is_nested", "is_meta", "values", "indices",
    "min", "max", "sign", "logabsdet", "eigenvalues", "eigenvectors", "U", "S", "Vh", "Q", "R", "L", "LU", "LD",
    "pivots", "info", "mantissa", "exponent", "solution", "residuals", "rank", "singular_values", "hist", "bin_edges",
})  # fmt: skip
# Methods that call their arguments, hand out raw memory, or change more than the tensor's values.
_NO_METHODS = frozenset({
    "apply_", "map_", "map2_", "as_subclass", "backward", "const_data_ptr", "data_ptr", "module_load", "new", "numpy",
    "record_stream", "register_hook", "register_post_accumulate_grad_hook", "reinforce", "set_", "share_memory_",
    "storage", "storage_type", "untyped_storage", "volatile",
})  # fmt: skip
_PART = re.compile(r"[\w +\-/:@]+")
_DOTTED = re.compile(r"\w+(\.\w+)+")


@cache
def _functions() -> dict[str, Function]:
    """Return every function that may be called, by the name it is saved under."""
    found: dict[str, Function] = {}
    for namespace, functions in torch.overrides.get_overridable_functions().items():
        if getattr(namespace, "__name__", "").startswith("torch") and namespace is not torch.Tensor:
            found |= {f"{namespace.__name__}.{name}": f for name, f in _chosen(namespace, set(functions))}
    builtin = vars(torch._C._nn).items()  # what torch.nn.functional calls in turn
    found |= {f"torch._C._nn.{name}": f for name, f in builtin if callable(f) and not name.startswith("_")}
    found |= {f"torch.{name}": getattr(torch, name) for name in _TORCH if hasattr(torch, name)}
    found |= {f"torch.nn.functional.{name}": getattr(F, name) for name in _FUNCTIONAL if hasattr(F, name)}
    found |= {f"operator.{name}": getattr(operator, name) for name in _OPERATORS}
    found |= {f"math.{name}": f for name, f in vars(math).items() if callable(f) and not name.startswith("_")}
    return found | {f"builtins.{function.__name__}": function for function in _BUILTINS}


def _chosen(namespace: Any, functions: set[Function]) -> Iterator[tuple[str, Function]]:
    for name, function in vars(namespace).items():
        if not _is_one_of(function, functions) or isinstance(function, type) or name in _CALLS_ITS_ARGUMENTS:
            continue
        yield name, function
        if callable(getattr(namespace, f"{name}_", None)):
            yield f"{name}_", getattr(namespace, f"{name}_")


def _is_one_of(value: Any, functions: set[Function]) -> bool:
    return callable(value) and getattr(value, "__hash__", None) is not None and value in functions


@cache
def _names() -> dict[Function, str]:
    """Return the name of each function; the first of several."""
    return {function: name for name, function in reversed(_functions().items())}


def known_function(function: Any) -> str | None:
    """Return the name of a function that any file may call; None for any other value."""
    return _names().get(function) if callable(function) and getattr(function, "__hash__", None) else None


def function_name(function: Any) -> str:
    """Return the name of a function for a file; one that cannot be found again by name is a `CheckpointError`."""
    return known_function(function) or dotted_name(function)


def dotted_name(thing: Any) -> str:
    """Return the dotted name that a class or function is imported by; one without is a `CheckpointError`."""
    name = f"{getattr(thing, '__module__', None)}.{getattr(thing, '__qualname__', None)}"
    try:
        found = pkgutil.resolve_name(name) if _DOTTED.fullmatch(name) else None
    except (ImportError, AttributeError):
        found = None
    if as_applied(found) is not thing:
        raise CheckpointError(
            f"{name} cannot be saved: it is not found by that name again",
            remedy="define it at the top level of a module",
        )
    return name


@dataclass(frozen=True)
class Allowed:
    """What may be built: the lists of this file, and what the caller names; a pickle is trusted with everything."""

    names: frozenset[str] = frozenset()
    everything: bool = False

    def module_class(self, name: str) -> type[nn.Module]:
        """Return the module class of that name."""
        package, _, last = name.rpartition(".")
        found: Any = None
        if _DOTTED.fullmatch(name) and f"{package}.".startswith(_PACKAGES):
            found = getattr(_module(package), last, None)
            found = found if getattr(found, "__module__", None) == package else None
        elif self.everything or name in self.names:
            found = self._import(name)
        else:
            raise self._refused("class", name)
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise CheckpointError(
                f"the file asks for the class {name}, which is no module class of this installation",
                remedy="install the versions of qatc and torch that it was saved with",
            )
        return found

    def function(self, name: str) -> Function:
        """Return the function of that name."""
        if name in _functions():
            return _functions()[name]
        if not self.everything and name not in self.names:
            raise self._refused("function", name)
        found = self._import(name)
        if not callable(found):
            raise CheckpointError(f"the file calls {name}, which is no function")
        function: Function = found
        return function

    def method(self, name: str) -> str:
        """Return the name of a method if it may be called."""
        harmless = callable(getattr(torch.Tensor, identifier(name), None)) and not name.startswith("_")
        return self._member("method", name, harmless and name not in _NO_METHODS)

    def attribute(self, name: str) -> str:
        """Return the name of an attribute if it may be read."""
        return self._member("attribute", identifier(name), name in _ATTRIBUTES)

    def _member(self, what: str, name: str, harmless: bool) -> str:
        if harmless or self.everything or f".{name}" in self.names:
            return name
        raise self._refused(what, f".{name}")

    def _import(self, name: str) -> Any:
        try:
            return as_applied(pkgutil.resolve_name(name))
        except Exception as error:  # whatever importing the caller's own module may raise
            raise CheckpointError(
                f"{name}, which the model needs, cannot be imported: {error}",
                remedy="put the module that defines it on the Python path, under the same name as when it was saved",
            ) from error

    @staticmethod
    def _refused(what: str, name: str) -> CheckpointError:
        return CheckpointError(
            f"the file asks for the {what} {name!r}, which is not one that loading takes from a file",
            remedy=f"if it is yours, or you trust it: qatc.load(path, allow=({name!r},))",
        )


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def identifier(name: Any) -> str:
    """Return a name that is a Python identifier; anything else is a `CheckpointError`."""
    if type(name) is str and name.isidentifier() and not keyword.iskeyword(name):
        return name
    raise CheckpointError(f"{str(name)[:60]!r} is not a name", remedy="names in a graph are Python identifiers")


def member_name(name: Any) -> str:
    """Return the name of a submodule, parameter or buffer; one that generated code could not hold is refused."""
    # Python reads an identifier in its normal form, which could be the name of something else.
    if type(name) is str and _PART.fullmatch(name) and unicodedata.normalize("NFKC", name) == name:
        return name
    raise CheckpointError(
        f"{str(name)[:60]!r} is not a name of a submodule, parameter or buffer",
        remedy="rename it with letters, digits, `_`, `-` or spaces",
    )
