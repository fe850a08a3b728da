"""Arithmetic, value by value, and matrix products.

One operand may be a number, in the place where it was written; torch's exporter wants the tensor first.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Add(nn.Module):
    """x + y."""

    def forward(self, x: Any, y: Any) -> Tensor:
        """Return the sum, broadcast."""
        return torch.add(x, y) if isinstance(x, Tensor) else torch.add(y, x)


class Sub(nn.Module):
    """x - y."""

    def forward(self, x: Any, y: Any) -> Tensor:
        """Return the difference, broadcast."""
        result: Tensor = x - y
        return result


class Mul(nn.Module):
    """x * y."""

    def forward(self, x: Any, y: Any) -> Tensor:
        """Return the product, broadcast."""
        return torch.mul(x, y) if isinstance(x, Tensor) else torch.mul(y, x)


class Div(nn.Module):
    """x / y."""

    def forward(self, x: Any, y: Any) -> Tensor:
        """Return the quotient, broadcast."""
        result: Tensor = x / y
        return result


class Pow(nn.Module):
    """x ** y."""

    def forward(self, x: Any, y: Any) -> Tensor:
        """Return the power, broadcast."""
        return torch.pow(x, y)


class Maximum(nn.Module):
    """The greater of x and y, place by place."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return it, broadcast."""
        return torch.maximum(x, y)


class Minimum(nn.Module):
    """The lesser of x and y, place by place."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return it, broadcast."""
        return torch.minimum(x, y)


class MatMul(nn.Module):
    """x @ y, both computed by the network."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the matrix product over the last two dimensions."""
        return torch.matmul(x, y)


# By name, so that a checkpoint can name no other function.
UNARY: Mapping[str, Callable[[Tensor], Tensor]] = {
    name: getattr(torch, name)
    for name in ("abs", "cos", "erf", "exp", "expm1", "log", "log1p", "neg", "reciprocal", "rsqrt", "sin", "sqrt",
                 "square")
}  # fmt: skip


class Unary(nn.Module):
    """A function of each value alone, by its name in torch (a key of `UNARY`)."""

    def __init__(self, function: str) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return the function's values."""
        return UNARY[self.function](x)
