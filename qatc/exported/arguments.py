"""Arguments and results of the calls in a .pt2 file, from JSON: `Argument` and the tree of outputs of its schema."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from qatc.errors import CheckpointError
from qatc.exported.archive import EXPORT_AGAIN
from qatc.exported.codes import DTYPES, MEMORY_FORMATS


@dataclass(frozen=True)
class Ref:
    """The result of another step, an input or a member, by its name in the graph."""

    name: str


def refs(value: Any) -> Iterator[str]:
    """Yield the names in a value."""
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, tuple | list):
        for item in value:
            yield from refs(item)
    elif isinstance(value, dict):
        yield from refs(tuple(value.values()))


def argument(data: Mapping[str, Any], prefix: str = "") -> Any:
    """Return an argument: a plain value, a `Ref`, or a list of such."""
    ((kind, value),) = data.items()
    reader = _ARGUMENTS.get(kind)
    if reader is None:
        raise CheckpointError(f"the program has an argument of kind {str(kind)[:40]!r}", remedy=EXPORT_AGAIN)
    return reader(value, prefix)


def _typed(*kinds: type) -> Callable[[Any, str], Any]:
    def read(value: Any, prefix: str) -> Any:
        if type(value) not in kinds:
            raise CheckpointError(f"the file is damaged: {str(value)[:60]!r} stands where a value should")
        return value

    return read


def _float(value: Any, prefix: str) -> float:
    return float(value)  # infinities are texts


def _tensor(value: Any, prefix: str) -> Ref:
    return Ref(prefix + _typed(str)(value["name"], ""))


def _symbol(value: Mapping[str, Any], prefix: str) -> Any:
    ((kind, content),) = value.items()
    return Ref(prefix + content) if kind == "as_name" else _typed(int, float, bool)(content, prefix)


def _each(read: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda values, prefix: [read(value, prefix) for value in values]


def _optional(value: Any, prefix: str) -> Any:
    return argument(value, prefix)


_ARGUMENTS: Mapping[str, Callable[[Any, str], Any]] = {
    "as_none": lambda value, prefix: None,
    "as_tensor": _tensor,
    "as_tensors": _each(_tensor),
    "as_int": _typed(int),
    "as_ints": _each(_typed(int)),
    "as_float": _float,
    "as_floats": _each(_float),
    "as_string": _typed(str),
    "as_bool": _typed(bool),
    "as_bools": _each(_typed(bool)),
    "as_sym_int": _symbol,
    "as_sym_ints": _each(_symbol),
    "as_sym_float": _symbol,
    "as_sym_floats": _each(_symbol),
    "as_sym_bool": _symbol,
    "as_sym_bools": _each(_symbol),
    "as_optional_tensor": _optional,
    "as_optional_tensors": _each(_optional),
    "as_scalar_type": lambda value, prefix: DTYPES[value],
    "as_memory_format": lambda value, prefix: MEMORY_FORMATS[value],
    "as_layout": lambda value, prefix: torch.strided,
    "as_device": lambda value, prefix: torch.device("cpu"),  # whichever it was: the model is read to the CPU
}


def structured(spec: str, outputs: list[Any]) -> Any:
    """Return the outputs in the containers that the model put them in: dicts, lists and tuples; a tuple for others.

    `spec` is the text of torch.utils._pytree's TreeSpec, of which only these are read.
    """
    rest = iter(outputs)

    def build(node: Mapping[str, Any]) -> Any:
        children = node["children_spec"]
        match node["type"]:
            case None:
                return next(rest)
            case "builtins.tuple":
                return tuple(map(build, children))
            case "builtins.list":
                return list(map(build, children))
            case "builtins.dict" | "collections.OrderedDict":
                keys = map(str, json.loads(node["context"]))
                return {key: build(child) for key, child in zip(keys, children, strict=True)}
        raise ValueError(node["type"])

    try:
        version, tree = json.loads(spec)
        result = build(tree)
        if version == 1 and next(rest, rest) is rest:
            return result
    except (ValueError, TypeError, StopIteration):
        pass  # a container of some other class: the tensors in it, in its order
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
