"""Calls that are several ops in one, as those ops: functions of torch's own signatures, on proxies."""

from typing import Any

import torch
from torch import fx

from qatc.expand import DeclinedError, rank_of, type_of


def add(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """Return input + alpha * other."""
    if isinstance(alpha, int | float) and alpha == 1:
        raise DeclinedError
    return input + other * alpha


def sub(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """Return input - alpha * other."""
    if isinstance(alpha, int | float) and alpha == 1:
        raise DeclinedError
    return input - other * alpha


def rsub(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """Return other - alpha * input."""
    return other - (input if alpha == 1 else input * alpha)


def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    """Return input + value * tensor1 * tensor2."""
    product = tensor1 * tensor2
    return input + (product if value == 1 else product * value)


def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    """Return input + value * tensor1 / tensor2."""
    quotient = tensor1 / tensor2
    return input + (quotient if value == 1 else quotient * value)


def lerp(input: Any, end: Any, weight: Any) -> Any:
    """Return input + weight * (end - input)."""
    return input + (end - input) * weight


def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """Return beta * input + alpha * (batch1 @ batch2)."""
    product = torch.matmul(batch1, batch2)
    scaled = product if alpha == 1 else product * alpha
    if beta == 0:
        return scaled
    return (input if beta == 1 else input * beta) + scaled


def stack(tensors: Any, dim: int = 0) -> Any:
    """Return the tensors concatenated along a new dimension."""
    return torch.cat([torch.unsqueeze(x, dim) for x in _each(tensors)], dim)


def hstack(tensors: Any) -> Any:
    """Return the tensors concatenated along the second dimension, or the only one."""
    tensors = _each(tensors)
    rank = rank_of(tensors[0])
    if not rank:
        raise DeclinedError
    return torch.cat(tensors, 0 if rank == 1 else 1)


def vstack(tensors: Any) -> Any:
    """Return the tensors, of two dimensions or more, concatenated along the first."""
    tensors = _each(tensors)
    if (rank_of(tensors[0]) or 0) < 2:
        raise DeclinedError
    return torch.cat(tensors, 0)


def _each(tensors: Any) -> list[Any]:
    if not isinstance(tensors, tuple | list):
        raise DeclinedError  # the parts of a split, whose number is not known here
    return list(tensors)


def transposed(input: Any) -> Any:
    """Return a matrix transposed (`t`)."""
    if rank_of(input) not in (None, 2):
        raise DeclinedError
    return torch.transpose(input, 0, 1)


def read_attribute(input: Any, name: str) -> Any:
    """Return x.T, x.mT and their like as what they compute."""
    if name not in ("T", "mT", "H", "mH") or (name in ("T", "H") and rank_of(input) != 2):
        raise DeclinedError
    kind = type_of(input)
    if name in ("H", "mH") and (kind is None or kind.dtype.is_complex):
        raise DeclinedError
    return torch.transpose(input, -2, -1)


def reshaped_as(input: Any, other: Any) -> Any:
    """Return x in the shape of another tensor, which is then not read where at most one of its sizes is open."""
    kind = type_of(other)
    if kind is None:
        raise DeclinedError
    sizes = [-1 if size is None else size for size in kind.shape]
    if sizes.count(-1) > 1:
        sizes = [other.size(d) if size is None else size for d, size in enumerate(kind.shape)]
    return torch.reshape(input, sizes)


def floating(input: Any) -> Any:
    """Return x.float() as a cast with its type written out."""
    return input.to(torch.float32)


def take_along_dim(input: Any, indices: Any, dim: int | None = None) -> Any:
    """Return what `torch.gather` does where the shapes need no broadcasting."""
    first, second = type_of(input), type_of(indices)
    if dim is None or first is None or second is None or len(first.shape) != len(second.shape):
        raise DeclinedError
    axis = dim % len(first.shape)
    if any(a != b for d, (a, b) in enumerate(zip(first.shape, second.shape, strict=True)) if d != axis):
        raise DeclinedError
    return torch.gather(input, dim, indices)


def greater(input: Any, other: Any = None, *rest: Any, **options: Any) -> Any:
    """Return torch.max of two tensors; that over a dimension gives places too, and stays."""
    if not _is_proxy(other) or rest or options:
        raise DeclinedError
    return torch.maximum(input, other)


def lesser(input: Any, other: Any = None, *rest: Any, **options: Any) -> Any:
    """Return torch.min of two tensors."""
    if not _is_proxy(other) or rest or options:
        raise DeclinedError
    return torch.minimum(input, other)


def _is_proxy(value: Any) -> bool:
    return isinstance(value, fx.Proxy)
