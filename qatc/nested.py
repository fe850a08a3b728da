"""Structures that hold tensors: a model's arguments and results, whatever containers they are made of.

Containers are lists, tuples, named tuples, mappings (dict and its subclasses, such as transformers' ModelOutput, among
them) and dataclasses. Anything else is a leaf: a tensor, or a plain value.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn


class Part(NamedTuple):
    """One part of a container: its name in a path, and how code gets at it."""

    name: str  # of the field, or the key or index as text
    key: Any  # of `container[key]`, or of `getattr(container, key)` where it is an attribute
    attribute: bool = False


Path = tuple[Part, ...]


@dataclass(frozen=True)
class Leaf:
    """A value that is no container, and the way to it."""

    path: Path
    value: Any

    @property
    def name(self) -> str:
        """The names on the way, joined: `features.0`; empty where the whole value is one leaf."""
        return joined(self.path)


def joined(path: Path) -> str:
    """Return the path as text: `features.0`."""
    return ".".join(part.name for part in path)


def parts(value: Any) -> list[tuple[Part, Any]] | None:
    """Return the parts of a container in order; None if the value is none."""
    if isinstance(value, Mapping):
        return [(Part(str(key), key), item) for key, item in value.items()]
    if isinstance(value, list | tuple):
        names = getattr(value, "_fields", None) or range(len(value))
        return [(Part(str(name), i), item) for i, (name, item) in enumerate(zip(names, value, strict=True))]
    if dataclasses.is_dataclass(value) and not isinstance(value, type | nn.Module):
        names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
        return [(Part(name, name, attribute=True), getattr(value, name)) for name in names]
    return None


def leaves(value: Any, path: Path = ()) -> Iterator[Leaf]:
    """Yield everything in the value that is no container, in order."""
    found = parts(value)
    if found is None:
        yield Leaf(path, value)
        return
    for part, item in found:
        yield from leaves(item, (*path, part))


def tensors(value: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors in the value with the names of their paths, in order."""
    return [(leaf.name, leaf.value) for leaf in leaves(value) if isinstance(leaf.value, Tensor)]


def map_tensors(change: Callable[[Tensor], Any], value: Any) -> Any:
    """Return the value with `change` applied to its tensors; what holds none stays the same object."""
    return map_leaves(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, value)


def map_leaves(change: Callable[[Any], Any], value: Any) -> Any:
    """Return the value with `change` applied to its leaves; a container in which nothing changes stays itself.

    Containers keep their class; no `__init__` or `__post_init__` of a dataclass runs again.
    """
    found = parts(value)
    if found is None:
        return change(value)
    items = [(part, map_leaves(change, item)) for part, item in found]
    if all(new is old for (_, new), (_, old) in zip(items, found, strict=True)):
        return value
    return _rebuilt(value, items)


def _rebuilt(value: Any, items: list[tuple[Part, Any]]) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(item for _, item in items)
    if isinstance(value, list | tuple):
        return type(value)(item for _, item in items)  # torch's own named tuples take one sequence, too
    if type(value) is dict:
        return {part.key: item for part, item in items}
    twin = copy.copy(value)
    for part, item in items:
        if part.attribute:
            object.__setattr__(twin, part.name, item)  # of a frozen dataclass, too
        else:
            twin[part.key] = item
    return twin
