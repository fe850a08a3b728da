"""What an example or a batch is to a model: its positional and its keyword arguments."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qatc.errors import ConfigError
from qatc.nested import map_tensors, tensors

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call; tensors may stand inside containers (`qatc.nested`)."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def bound(self, forward: Callable[..., Any]) -> dict[str, Any]:
        """Return the values by parameter, in the signature's order; a `ConfigError` if they do not fit it."""
        try:
            return inspect.signature(forward).bind(*self.args, **self.kwargs).arguments
        except TypeError as error:
            raise ConfigError(
                f"the inputs do not fit the model: {error}", remedy=f"its arguments are {inspect.signature(forward)}"
            ) from error


def arguments_of(given: Any, forward: Callable[..., Any]) -> Arguments:
    """Return the arguments that an example or a batch stands for.

    A tensor is the first argument. A tuple or list holds the positional arguments; items beyond them, as labels, are
    left out. A dict holds keyword arguments if its keys name every argument that has no default; other keys, as
    `labels`, are left out. Where they do not, and the model has at most one such argument, the dict itself is the first
    argument. To give a model one argument that is a tuple, or a dict whose key is that argument's name, wrap it in a
    tuple.

    Raises `ConfigError` where a dict lacks arguments of several that the model needs.
    """
    parameters = inspect.signature(forward).parameters.values()
    if isinstance(given, Mapping):
        return _of_mapping(given, list(parameters))
    if isinstance(given, list | tuple):
        count = sum(p.kind in _POSITIONAL for p in parameters)
        takes_all = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        return Arguments(tuple(given) if takes_all else tuple(given)[:count])
    return Arguments((given,))


def _of_mapping(given: Mapping[Any, Any], parameters: list[inspect.Parameter]) -> Arguments:
    names = {p.name for p in parameters if p.kind in _NAMED}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic]
    chosen = {str(key): value for key, value in given.items() if key in names or takes_all}
    missing = [name for name in needed if name not in chosen]
    if chosen and not missing:
        return Arguments((), chosen)
    if len(needed) <= 1:
        return Arguments((given,))
    raise ConfigError(
        f"the dict has keys {sorted(map(str, given))}, the model needs {needed}: {', '.join(missing)} missing",
        remedy="name its keys as the arguments of forward, or give a tuple in their order",
    )


def batch_size(value: Any) -> int | None:
    """Return the size of dimension 0 of the first tensor in the value that has one; None where none has."""
    return next((tensor.shape[0] for _, tensor in tensors(value) if tensor.dim()), None)


def grown(value: Any, rows: int = 1) -> Any:
    """Return the value with the first `rows` rows of every tensor that has the batch in dimension 0 once more."""
    batch = batch_size(value)

    def more(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor[:rows]]) if tensor.dim() and batch and tensor.shape[0] == batch else tensor

    return map_tensors(more, value)
