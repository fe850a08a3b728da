"""Pooling."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from qatc.lowering.emit.builder import Builder, DeclinedError, Form, Value, known, shape_of, typed
from qatc.lowering.lowered_modules import GlobalAveragePool, SumPool
from qatc.modules.kinds import to_one


def each(value: Any, rank: int) -> list[int]:
    """Return one number per dimension."""
    return [value] * rank if isinstance(value, int) else list(value)


def batched(b: Builder, x: Value, rank: int, write: Callable[[Value], Value]) -> Value:
    """Return what an op on [N, C, ...] of so many positions' dimensions gives, of one sample without N too."""
    if len(shape_of(x)) == rank + 2:
        return write(x)
    one = b.op("Unsqueeze", x, [0])
    return b.op("Squeeze", write(typed(one, one, (1, *shape_of(x)))), [0])


def _rounds_up(b: Builder, m: Any, x: Value, rank: int) -> bool:
    """Say whether a pool has windows that reach beyond the padding; torch leaves out those that begin there."""
    if not m.ceil_mode:
        return False
    down, up = True, True
    described = (each(v, rank) for v in (m.kernel_size, _stride(m), _padding(m), getattr(m, "dilation", 1)))
    sizes = zip(shape_of(x)[-rank:], b.gives.shape[-rank:], *described, strict=True)
    for size, gives, kernel, stride, padding, dilation in sizes:
        if size is None:
            return True
        room = size + 2 * padding - dilation * (kernel - 1) - 1
        down, up = down and gives == room // stride + 1, up and gives == -(-room // stride) + 1
    if not down and not up:
        raise DeclinedError
    return not down


def _stride(m: Any) -> Any:
    return m.kernel_size if m.stride is None else m.stride


def _padding(m: Any) -> Any:
    return getattr(m, "padding", 0)  # LPPool has none


def _window(b: Builder, m: Any, x: Value, rank: int) -> dict[str, Any]:
    pads = each(_padding(m), rank)
    return {
        "kernel_shape": each(m.kernel_size, rank), "strides": each(_stride(m), rank), "pads": [*pads, *pads],
        "ceil_mode": int(_rounds_up(b, m, x, rank)),
    }  # fmt: skip


def _max_pool(rank: int) -> Form:
    def write(b: Builder, m: nn.MaxPool2d, x: Value) -> Value:
        if m.return_indices:
            raise DeclinedError
        window = _window(b, m, x, rank) | {"dilations": each(m.dilation, rank)}
        return batched(b, x, rank, lambda x: b.op("MaxPool", x, **window))

    return write


def _average_pool(rank: int) -> Form:
    def write(b: Builder, m: Any, x: Value) -> Value:
        if getattr(m, "divisor_override", None):
            raise DeclinedError
        window = _window(b, m, x, rank) | {"count_include_pad": int(m.count_include_pad)}
        return batched(b, x, rank, lambda x: b.op("AveragePool", x, **window))

    return write


def _lp_pool(rank: int) -> Form:
    def write(b: Builder, m: nn.LPPool2d, x: Value) -> Value:
        window = _window(b, m, x, rank)
        powers = typed(b.op("Pow", x, float(m.norm_type)), x)
        means = batched(b, powers, rank, lambda x: b.op("AveragePool", x, count_include_pad=1, **window))
        return b.op("Pow", b.op("Mul", means, math.prod(each(m.kernel_size, rank))), 1 / m.norm_type)

    return write


def adaptive(rank: int, over_all: str, pool: str) -> Form:
    """Return the form of a pool to a size: over all positions, over windows of one size, or of nothing."""

    def write(b: Builder, m: nn.AdaptiveAvgPool2d, x: Value) -> Value:
        if getattr(m, "return_indices", False):
            raise DeclinedError
        if to_one(m.output_size):
            return b.op(over_all, x, list(range(-rank, 0)), keepdims=1)
        before = [known(x, d) for d in range(-rank, 0)]
        after = [b.gives.shape[d] for d in range(-rank, 0)]
        if before == after:
            return x
        if any(size is None or have % size for have, size in zip(before, after, strict=True)):
            raise DeclinedError
        window = [have // (size or 1) for have, size in zip(before, after, strict=True)]
        return batched(b, x, rank, lambda x: b.op(pool, x, kernel_shape=window, strides=window))

    return write


def _global_average_pool(b: Builder, m: GlobalAveragePool, x: Value) -> Value:
    y = b.op("GlobalAveragePool", x)
    return y if m.keepdim else b.reshape(y, shape_of(x)[:2])


def _sum_pool(b: Builder, m: SumPool, x: Value) -> Value:
    rank = 2 if isinstance(m.pool, nn.AvgPool2d) else 3
    return b.op("Mul", _average_pool(rank)(b, m.pool, x), m.factor)


POOLS: Mapping[type[nn.Module], Form] = {
    GlobalAveragePool: _global_average_pool, SumPool: _sum_pool,
    **{
        getattr(nn, f"{name}{rank}d"): write
        for rank in (1, 2, 3)
        for name, write in (
            ("MaxPool", _max_pool(rank)), ("AvgPool", _average_pool(rank)), ("LPPool", _lp_pool(rank)),
            ("AdaptiveAvgPool", adaptive(rank, "ReduceMean", "AveragePool")),
            ("AdaptiveMaxPool", adaptive(rank, "ReduceMax", "MaxPool")),
        )
    },
}  # fmt: skip
