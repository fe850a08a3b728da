"""What a form is: the calls that one module stands for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

Build = Callable[..., nn.Module | None]


@dataclass(frozen=True)
class Form:
    """One module form: the calls it stands for, their parameters, and how to build it.

    The first `tensors` arguments stay arguments of the module; `parameters` (name to default, in the call's order)
    become attributes (`variadic`: the one parameter may be spread over several arguments). `build` returns None where
    the module cannot express the values given. Parameters named in `computed` may be values of the graph; they then
    stay keyword arguments. `fits` says of the call's node whether the form is meant at all.
    """

    name: str
    targets: tuple[Any, ...]
    build: Build
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tensors: int = 1
    computed: frozenset[str] = frozenset()
    variadic: bool = False
    fits: Callable[[fx.Node], bool] = lambda node: True


INPLACE: Mapping[str, Any] = {"inplace": False}


def names(*wanted: str) -> tuple[Any, ...]:
    """Return every callable of these names in torch and torch.nn.functional, the tensor methods, and both in place."""
    found: list[Any] = []
    for name in wanted:
        for variant in (name, name + "_"):
            holders = (torch, F, torch._C._nn, torch.special)
            found += [getattr(h, variant) for h in holders if hasattr(h, variant)]
            if hasattr(torch.Tensor, variant):
                found.append(variant)
    return tuple(dict.fromkeys(found))


def plain_value(value: Any) -> Any:
    """Return lists as tuples, which compare and hash."""
    return tuple(plain_value(v) for v in value) if isinstance(value, list | tuple) else value


def plain(kind: Callable[..., nn.Module], *dropped: str) -> Build:
    """Build `kind` from the parameters, but for those that change nothing (`inplace`)."""

    def build(**given: Any) -> nn.Module:
        return kind(**{k: v for k, v in given.items() if k not in (*dropped, "inplace")})

    return build


def only(kind: Callable[..., nn.Module], **neutral: Any) -> Build:
    """Build `kind` without the parameters in `neutral`, if they have those values."""

    def build(**given: Any) -> nn.Module | None:
        rest = {k: v for k, v in given.items() if k not in neutral}
        return kind(**rest) if all(given.get(k, v) == v for k, v in neutral.items()) else None

    return build


def no_parameters(kind: Callable[[], nn.Module]) -> Build:
    """Build `kind`, which takes none."""

    def build(**given: Any) -> nn.Module:
        return kind()

    return build
