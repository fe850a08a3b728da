"""A user's autograd function as one call of a graph."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

Function = type[torch.autograd.Function]


@cache
def applied(function: Function) -> Callable[..., Any]:
    """Return `function.apply` as a plain function of its own name: fx writes the method as one of torch's."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        return function.apply(*args, **kwargs)

    apply.__name__ = function.__name__
    apply.__qualname__ = f"{function.__qualname__}.apply"
    apply.__module__ = function.__module__
    apply.__wrapped__ = function  # type: ignore[attr-defined]
    return apply


def as_applied(found: Any) -> Any:
    """Return what a dotted name stands for; `SomeFunction.apply` as `applied` has it."""
    owner = getattr(found, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return applied(owner)
    return found
