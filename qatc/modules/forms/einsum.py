"""Contractions of two operands as permute, reshape and one matrix product."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from qatc.expand import DeclinedError, type_of


def einsum(equation: Any, *operands: Any) -> Any:
    """Return `torch.einsum` of two operands as a batched matrix product.

    Letters fall into four kinds: of both operands and the result (batch), of both alone (contracted), of one and the
    result (free), and of one alone (summed first). Left as they are: one or more than two operands, `...`, a letter
    twice in one operand, and products with nothing to contract.
    """
    if len(operands) == 1 and isinstance(operands[0], tuple | list):
        operands = tuple(operands[0])
    if not isinstance(equation, str) or len(operands) != 2 or "." in equation:
        raise DeclinedError
    terms, arrow, result = equation.replace(" ", "").partition("->")
    left, comma, right = terms.partition(",")
    if not arrow:
        result = "".join(sorted(c for c in {*left, *right} if (left + right).count(c) == 1))
    if not comma or "," in right or any(len(set(term)) != len(term) for term in (left, right, result)):
        raise DeclinedError
    batch = [c for c in left if c in right and c in result]
    contracted = [c for c in left if c in right and c not in result]
    if not contracted:
        raise DeclinedError
    x, left = _summed(operands[0], left, right + result)
    y, right = _summed(operands[1], right, left + result)
    rows, columns = ([c for c in term if c in result and c not in batch] for term in (left, right))
    sizes = _sizes(x, left) | _sizes(y, right)
    product = torch.matmul(
        _grouped(x, left, (batch, rows, contracted), sizes), _grouped(y, right, (batch, contracted, columns), sizes)
    )
    order = [*batch, *rows, *columns]
    if len(rows) != 1 or len(columns) != 1:
        product = product.reshape([sizes[c]() for c in order])
    return _permuted(product, order, list(result))


def _summed(x: Any, term: str, elsewhere: str) -> tuple[Any, str]:
    """Sum over the letters that appear nowhere else."""
    alone = tuple(d for d, c in enumerate(term) if c not in elsewhere)
    return (torch.sum(x, alone) if alone else x), "".join(c for c in term if c in elsewhere)


def _sizes(x: Any, term: str) -> dict[str, Callable[[], Any]]:
    """Return how to get the size of each letter: a number if it is known, else computed in the graph."""
    kind = type_of(x)
    known = [None] * len(term) if kind is None else kind.shape
    return {c: partial(_size, x, d, known[d]) for d, c in enumerate(term)}


def _size(x: Any, dim: int, known: int | None) -> Any:
    return x.size(dim) if known is None else known


def _grouped(x: Any, term: str, groups: Sequence[list[str]], sizes: dict[str, Callable[[], Any]]) -> Any:
    """Return x as [*batch, m, n], the letters of the last two groups joined."""
    batch, *others = groups
    x = _permuted(x, list(term), [c for group in groups for c in group])
    if all(len(group) == 1 for group in others):
        return x
    joined = [_product([sizes[c]() for c in group]) for group in others]
    return x.reshape([*(sizes[c]() for c in batch), *joined])


def _product(sizes: list[Any]) -> Any:
    return math.prod(sizes[1:], start=sizes[0]) if sizes else 1


def _permuted(x: Any, letters: list[str], wanted: list[str]) -> Any:
    order = tuple(letters.index(c) for c in wanted)
    return x if order == tuple(range(len(order))) else torch.permute(x, order)
