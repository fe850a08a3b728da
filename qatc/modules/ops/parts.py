"""Parts of a tensor: slices, pieces, chosen positions; and a tensor with a part replaced."""

from typing import Any

import torch
from torch import Tensor, nn


class Slice(nn.Module):
    """x[index], of numbers, slices, None and ...; an index that the network computes is an argument of forward."""

    def __init__(self, index: Any = None) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor, index: Any = None) -> Tensor:
        """Return the part."""
        part: Tensor = x[self.index if index is None else index]
        return part


class Narrow(nn.Module):
    """`length` positions from `start` on, along one dimension."""

    def __init__(self, dim: int, start: int = 0, length: int = 1) -> None:
        super().__init__()
        self.dim, self.start, self.length = dim, start, length

    def forward(self, x: Tensor, start: Any = None, length: Any = None) -> Tensor:
        """Return the part."""
        return torch.narrow(
            x, self.dim, self.start if start is None else start, self.length if length is None else length
        )


class Select(nn.Module):
    """One position of a dimension, and without that dimension."""

    def __init__(self, dim: int, index: int) -> None:
        super().__init__()
        self.dim, self.index = dim, index

    def forward(self, x: Tensor) -> Tensor:
        """Return the part."""
        return torch.select(x, self.dim, self.index)


class Split(nn.Module):
    """One piece of `torch.split`: the one numbered `index`, of pieces of one size or of these sizes."""

    def __init__(self, split_size_or_sections: int | tuple[int, ...], dim: int = 0, index: int = 0) -> None:
        super().__init__()
        self.split_size_or_sections, self.dim, self.index = split_size_or_sections, dim, index

    def forward(self, x: Tensor) -> Tensor:
        """Return the piece."""
        sizes, total = self.split_size_or_sections, x.shape[self.dim]
        if not isinstance(sizes, int):
            index = self.index % len(sizes)
            return torch.narrow(x, self.dim, sum(sizes[:index]), sizes[index])
        start = (self.index % -(-total // sizes)) * sizes
        return torch.narrow(x, self.dim, start, min(sizes, total - start))


class Chunk(nn.Module):
    """One piece of `torch.chunk`: the one numbered `index`, of (at most) so many of nearly equal size."""

    def __init__(self, chunks: int, dim: int = 0, index: int = 0) -> None:
        super().__init__()
        self.chunks, self.dim, self.index = chunks, dim, index

    def forward(self, x: Tensor) -> Tensor:
        """Return the piece."""
        total = x.shape[self.dim]
        size = -(-total // self.chunks)
        start = (self.index % -(-total // size)) * size
        return torch.narrow(x, self.dim, start, min(size, total - start))


class IndexSelect(nn.Module):
    """Positions along one dimension, by their numbers in a tensor [n]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Return the positions, in the order of `index`."""
        return torch.index_select(x, self.dim, index)


class TakeAlong(nn.Module):
    """`torch.gather`: along one dimension, for every place a position of its own."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Return the values, in the shape of `index`."""
        return torch.gather(x, self.dim, index)


class Flip(nn.Module):
    """Dimensions in reverse."""

    def __init__(self, dims: int | tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """Return x reversed."""
        return torch.flip(x, (self.dims,) if isinstance(self.dims, int) else self.dims)


class Roll(nn.Module):
    """Values moved along dimensions, those that leave at one end coming in at the other."""

    def __init__(self, shifts: int | tuple[int, ...], dims: int | tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.shifts, self.dims = shifts, dims

    def forward(self, x: Tensor) -> Tensor:
        """Return x rolled."""
        return torch.roll(x, self.shifts, () if self.dims is None else self.dims)


class Assign(nn.Module):
    """A tensor with x[index] = value done to it, x left as it was."""

    def __init__(self, index: Any = None) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor, value: Any, index: Any = None) -> Tensor:
        """Return the tensor."""
        where = self.index if index is None else index
        if isinstance(where, Tensor) and where.dtype == torch.bool and not isinstance(value, Tensor):
            # The same function, in an operator that every runtime has.
            return x.masked_fill(where.reshape(*where.shape, *[1] * (x.dim() - where.dim())), value)
        result = x.clone()
        result[where] = value
        return result
