"""Other shapes of the same values: dimensions renamed, reordered, repeated, joined."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Concat(nn.Module):
    """Concatenation along a dimension."""

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return the tensors in one."""
        return torch.cat(list(tensors), self.dim)


class Reshape(nn.Module):
    """Another shape; one that the network computes is an argument of forward."""

    def __init__(self, shape: int | tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, shape: Any = None) -> Tensor:
        """Return x in that shape."""
        wanted = self.shape if shape is None else shape
        return torch.reshape(x, wanted if isinstance(wanted, tuple | list) else (wanted,))


class Permute(nn.Module):
    """The dimensions in another order."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """Return x permuted."""
        return torch.permute(x, self.dims)


class Transpose(nn.Module):
    """Two dimensions swapped."""

    def __init__(self, dim0: int, dim1: int) -> None:
        super().__init__()
        self.dim0, self.dim1 = dim0, dim1

    def forward(self, x: Tensor) -> Tensor:
        """Return x transposed."""
        return torch.transpose(x, self.dim0, self.dim1)


class Movedim(nn.Module):
    """Some dimensions at other places, the rest in their order."""

    def __init__(self, source: int | tuple[int, ...], destination: int | tuple[int, ...]) -> None:
        super().__init__()
        self.source, self.destination = source, destination

    def forward(self, x: Tensor) -> Tensor:
        """Return x permuted."""
        return torch.movedim(x, self.source, self.destination)  # type: ignore[arg-type]  # both are ints, or neither


class Squeeze(nn.Module):
    """Without a dimension of size 1, or without all of them."""

    def __init__(self, dim: int | tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return x without them."""
        return torch.squeeze(x) if self.dim is None else torch.squeeze(x, self.dim)


class Unsqueeze(nn.Module):
    """With one more dimension, of size 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """Return x with it."""
        return torch.unsqueeze(x, self.dim)


class Expand(nn.Module):
    """Dimensions of size 1 repeated to these sizes (-1 keeps one), or to those of another tensor."""

    def __init__(self, size: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor, other: Tensor | None = None, size: Any = None) -> Tensor:
        """Return x expanded."""
        return x.expand_as(other) if other is not None else x.expand(self.size if size is None else size)


class Tile(nn.Module):
    """The whole tensor repeated, so many times along each dimension."""

    def __init__(self, repeats: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.repeats = repeats

    def forward(self, x: Tensor, repeats: Any = None) -> Tensor:
        """Return x repeated; fewer factors than dimensions are of the last ones."""
        return torch.tile(x, self.repeats if repeats is None else repeats)


class RepeatInterleave(nn.Module):
    """Each slice along a dimension repeated next to itself."""

    def __init__(self, repeats: int, dim: int) -> None:
        super().__init__()
        self.repeats, self.dim = repeats, dim

    def forward(self, x: Tensor) -> Tensor:
        """Return x with `repeats` times the slices."""
        # By expansion, which every runtime has.
        dim = self.dim % x.dim()
        sizes = [-1] * (x.dim() + 1)
        sizes[dim + 1] = self.repeats
        return x.unsqueeze(dim + 1).expand(sizes).flatten(dim, dim + 1)


class Cast(nn.Module):
    """Another element type."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return x in that type."""
        return x.to(self.dtype)
