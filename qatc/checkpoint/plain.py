"""Values as plain data and back: scalars and lists are themselves, anything else is a dict of one key, its tag."""

import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.fx.immutable_collections import immutable_dict, immutable_list

from qatc.errors import CheckpointError

Encoder = Callable[[Any], Any]
Readers = Mapping[str, Callable[[Any], Any]]

# Exact types: a subclass could bring a `__repr__` of its own into the code that fx generates.
_SCALARS = frozenset({type(None), bool, int, float, str})


class NotPlainError(TypeError):
    """A value that a checkpoint cannot hold; whoever knows where it stands turns it into a `CheckpointError`."""


def not_plain(value: Any) -> Any:
    """Refuse the value."""
    kind = type(value)
    raise NotPlainError(f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."))


def encode(value: Any, other: Encoder = not_plain) -> Any:
    """Return the value as plain data; `other` encodes what is none, or refuses it."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind in (list, immutable_list):
        return [encode(item, other) for item in value]
    if isinstance(value, np.generic):
        return encode(value.item(), other)
    if kind not in _WRITERS:
        return other(value)
    tag, parts = _WRITERS[kind](value)
    return {tag: encode(parts, other)}


def decode(data: Any, readers: Readers | None = None) -> Any:
    """Return the value that `encode` was given; a tag that is not among the readers is a `CheckpointError`."""
    readers = READERS if readers is None else readers
    kind = type(data)
    if kind in _SCALARS:
        return data
    if kind is list:
        return [decode(item, readers) for item in data]
    if kind is dict and len(data) == 1:
        ((tag, parts),) = data.items()
        if tag in readers:
            return readers[tag](decode(parts, readers))
    raise CheckpointError(f"the file is damaged: {str(data)[:60]!r} stands where a value should")


def _named(kind: type) -> dict[str, Any]:
    return {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, kind)}


DTYPES: Mapping[str, torch.dtype] = _named(torch.dtype)
_LAYOUTS = _named(torch.layout)
_MEMORY_FORMATS = _named(torch.memory_format)


def _name(value: Any) -> str:
    return str(value).removeprefix("torch.")


def _dict(value: Any) -> tuple[str, list[Any]]:
    return "dict", [[key, item] for key, item in value.items()]


def _set(value: Any) -> tuple[str, list[Any]]:
    # Sorted, so that the same model gives the same file.
    return type(value).__name__, sorted(value, key=repr)


_WRITERS: Mapping[type, Callable[[Any], tuple[str, Any]]] = {
    tuple: lambda v: ("tuple", list(v)),
    torch.Size: lambda v: ("size", list(v)),
    dict: _dict,
    immutable_dict: _dict,
    types.MappingProxyType: _dict,
    set: _set,
    frozenset: _set,
    slice: lambda v: ("slice", [v.start, v.stop, v.step]),
    types.EllipsisType: lambda v: ("ellipsis", None),
    torch.dtype: lambda v: ("dtype", _name(v)),
    torch.layout: lambda v: ("layout", _name(v)),
    torch.memory_format: lambda v: ("memory_format", _name(v)),
    torch.device: lambda v: ("device", str(v)),
}

READERS: Readers = {
    "tuple": tuple,
    "size": torch.Size,
    "dict": dict,
    "set": set,
    "frozenset": frozenset,
    "slice": lambda parts: slice(*parts),
    "ellipsis": lambda _: ...,
    "dtype": DTYPES.__getitem__,
    "layout": _LAYOUTS.__getitem__,
    "memory_format": _MEMORY_FORMATS.__getitem__,
    "device": torch.device,
}
