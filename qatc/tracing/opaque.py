"""A submodule that could not be looked into, and stays one call, in float."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Opaque:
    """Which module, where and why tracing stopped, and how many weights are out of sight in it."""

    path: str
    kind: str
    place: str
    reason: str
    weights: int

    @staticmethod
    def of(path: str, module: nn.Module, error: BaseException, place: str, weights: int) -> "Opaque":
        """Return the record of an exception inside a module."""
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Opaque(path, type(module).__name__, place, f"{type(error).__name__}: {first}"[:200], weights)

    def __str__(self) -> str:
        where = f" at {self.place.partition(': ')[0]}" if self.place else ""
        hidden = f"; it hides {self.weights:,} weights" if self.weights else "; it has no weights"
        return f"{self.path} ({self.kind}) cannot be traced{where}: {self.reason}{hidden}"


def weights_hidden(module: nn.Module) -> int:
    """Return the number of elements of the module's parameters with two or more dimensions."""
    return sum(p.numel() for p in module.parameters() if p.dim() > 1)
