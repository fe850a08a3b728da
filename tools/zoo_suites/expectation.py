"""Training without chance: every random draw gives its expectation, so that two forms of a model can be compared."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class _Parameter(NamedTuple):
    position: int
    name: str
    default: float

    def of(self, args: list[Any], kwargs: dict[str, Any]) -> float:
        return float(args[self.position] if len(args) > self.position else kwargs.get(self.name, self.default))

    def set(self, args: list[Any], kwargs: dict[str, Any], value: float) -> None:
        if len(args) > self.position:
            args[self.position] = value
        else:
            kwargs[self.name] = value


_P, _TRAINS = _Parameter(1, "p", 0.5), _Parameter(2, "training", True)
_OFF = _Parameter(2, "training", False)
# What drops: its rate, and whether it is in training.
_DROPPING: dict[Callable[..., Any], tuple[_Parameter, _Parameter]] = {
    F.dropout: (_P, _TRAINS), F.dropout1d: (_P, _TRAINS), F.dropout2d: (_P, _TRAINS), F.dropout3d: (_P, _TRAINS),
    F.alpha_dropout: (_P, _OFF), F.feature_alpha_dropout: (_P, _OFF),
    torch.dropout: (_P, _Parameter(2, "train", True)),
    F.scaled_dot_product_attention: (_Parameter(4, "dropout_p", 0.0), _Parameter(99, "", True)),
    F.multi_head_attention_forward: (_Parameter(10, "dropout_p", 0.0), _Parameter(13, "training", True)),
}  # fmt: skip
_ADDING = frozenset({torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__})
_FLOORING = frozenset({torch.floor, Tensor.floor, Tensor.floor_})


class Expectation(TorchFunctionMode):
    """Inside, nothing is dropped; `drawn` counts the draws that a model in training would have made, by their kind."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: Counter[str] = Counter()
        # Kept, so that no other tensor gets their ids: uniform random numbers, and these with a number added.
        self._uniform: dict[int, Tensor] = {}
        self._shifted: dict[int, tuple[Tensor, float]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function with its rate set to zero."""
        args, kwargs = list(args), dict(kwargs or {})
        if func in _DROPPING:
            rate, training = _DROPPING[func]
            if rate.of(args, kwargs) and training.of(args, kwargs):
                self._note(rate.of(args, kwargs))
            rate.set(args, kwargs, 0.0)
        elif func is Tensor.bernoulli_:  # the mask of a stochastic depth, which is divided by this
            keeps = _Parameter(1, "p", 0.5).of(args, kwargs)
            self._note(1 - keeps)
            return args[0].fill_(keeps)
        elif func in _FLOORING and id(args[0]) in self._shifted:  # the other way to draw such a mask
            _, keeps = self._shifted[id(args[0])]
            self._note(1 - keeps)
            return args[0].fill_(keeps)
        result = func(*args, **kwargs)
        if func in (torch.rand, torch.rand_like):
            self._uniform[id(result)] = result
        elif func in _ADDING and len(args) == 2:
            numbers = [arg for arg in args if isinstance(arg, int | float)]
            if numbers and any(id(arg) in self._uniform for arg in args):
                self._shifted[id(result)] = (result, float(numbers[0]))
        return result

    def _note(self, rate: float) -> None:
        self.drawn[f"rate {rate:.6g}"] += 1
