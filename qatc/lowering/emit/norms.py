"""Normalisation, softmax and reductions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from qatc.lowering.emit.builder import Builder, DeclinedError, Form, Input, Value, dtype_of, known, shape_of, typed
from qatc.modules import ops


def _reduction(kind: str) -> Form:
    def write(b: Builder, m: ops.Mean, x: Value) -> Value:
        if b.gives.dtype == torch.bool:
            raise DeclinedError
        dims = (m.dim,) if isinstance(m.dim, int) else m.dim or range(len(shape_of(x)))
        return b.op(kind, b.cast(x, b.gives.dtype), list(dims), keepdims=int(m.keepdim))

    return write


def _softmax(kind: str) -> Form:
    def write(b: Builder, m: nn.Softmax | ops.Softmax, x: Value) -> Value:
        # The dimension that torch chooses where none is given.
        dim = (0 if len(shape_of(x)) in (0, 1, 3) else 1) if m.dim is None else m.dim
        return b.op(kind, b.cast(x, b.gives.dtype), axis=dim)

    return write


def _softmin(b: Builder, m: nn.Softmin, x: Value) -> Value:
    return _softmax("Softmax")(b, m, typed(b.op("Neg", x), x))


def _masked_softmax(b: Builder, m: ops.MaskedSoftmax, scores: Value, *masks: Value) -> Value:
    shape = shape_of(scores)
    for given in masks:
        by_head = m.mask_blocks and len(shape_of(given)) == 3 and len(shape) == 4
        mask = b.reshape(given, (None, known(scores, 1), *shape_of(given)[1:])) if by_head else given
        if dtype_of(mask) != torch.bool:
            scores = b.op("Add", scores, b.cast(mask, dtype_of(scores)))
        elif m.mask_blocks:
            scores = b.where(mask, -math.inf, scores)
        else:
            scores = b.where(mask, scores, -math.inf)
    if m.causal:
        queries, keys = shape[-2:]
        if queries is None or keys is None:
            raise DeclinedError
        later = b.value(torch.ones(queries, keys, dtype=torch.bool).triu(1))
        assert later is not None
        scores = b.where(later, -math.inf, scores)
    if not masks:
        return b.op("Softmax", scores, axis=-1)
    blind = b.compare("Equal", b.op("ReduceMax", scores, [-1], keepdims=1), -math.inf)
    return b.where(blind, 0.0, b.op("Softmax", b.where(blind, 0.0, scores), axis=-1))


def _layer_norm(
    b: Builder, m: nn.LayerNorm | ops.LayerNorm, x: Value, weight: Value | None = None, bias: Value | None = None
) -> Value:
    factors, shift = _affine(b, m, weight, bias)
    if factors is None:
        factors = torch.ones(m.normalized_shape, dtype=dtype_of(x))
    rest = () if shift is None else (shift,)
    return b.op("LayerNormalization", x, factors, *rest, axis=-len(m.normalized_shape), epsilon=m.eps, stash_type=1)


def _affine(b: Builder, m: nn.Module, weight: Value | None, bias: Value | None) -> tuple[Input, Input]:
    """Return factors and shifts: those given by the graph, or the module's own, or none."""
    given = {"weight": weight, "bias": bias}
    first, second = (b.own(m, name) if value is None and hasattr(m, name) else value for name, value in given.items())
    return first, second


def _rms_norm(b: Builder, m: nn.RMSNorm | ops.RMSNorm, x: Value, weight: Value | None = None) -> Value:
    axes = list(range(-len(m.normalized_shape), 0))
    mean = b.op("ReduceMean", b.op("Pow", x, 2.0), axes, keepdims=1)
    eps = torch.finfo(dtype_of(x)).eps if m.eps is None else m.eps
    y = b.op("Mul", x, b.op("Reciprocal", b.op("Sqrt", b.op("Add", mean, eps))))
    factors, _ = _affine(b, m, weight, None)
    return y if factors is None else b.op("Mul", y, factors)


def _group_norm(
    b: Builder, m: nn.GroupNorm | ops.GroupNorm, x: Value, weight: Value | None = None, bias: Value | None = None
) -> Value:
    batch, *sizes = shape_of(x)
    if None in sizes:
        raise DeclinedError
    count = math.prod(size for size in sizes if size is not None) // m.num_groups
    apart = b.reshape(x, (batch, m.num_groups, count))
    ones = torch.ones(m.num_groups, dtype=dtype_of(x))
    y = b.reshape(b.op("InstanceNormalization", apart, ones, torch.zeros_like(ones), epsilon=m.eps), shape_of(x))
    factors, shifts = _affine(b, m, weight, bias)
    y = y if factors is None else b.op("Mul", y, _over_positions(b, factors, sizes))
    return y if shifts is None else b.op("Add", y, _over_positions(b, shifts, sizes))


def _over_positions(b: Builder, values: Input, sizes: Sequence[Any]) -> Value:
    """Return a value per channel, shaped to broadcast over [N, C, ...]."""
    assert isinstance(values, Value)
    return b.reshape(values, (sizes[0], *[1] * (len(sizes) - 1)))


def _instance_norm(b: Builder, m: Any, x: Value, weight: Value | None = None, bias: Value | None = None) -> Value:
    if getattr(m, "running_mean", None) is not None:
        return _batch_norm(b, m, x)
    if len(shape_of(x)) < 3:
        raise DeclinedError
    channels, (factors, shifts) = known(x, 1), _affine(b, m, weight, bias)
    ones = torch.ones(channels, dtype=dtype_of(x))
    factors, shifts = ones if factors is None else factors, torch.zeros_like(ones) if shifts is None else shifts
    return b.op("InstanceNormalization", x, factors, shifts, epsilon=m.eps)


def _batch_norm(b: Builder, m: nn.BatchNorm2d, x: Value) -> Value:
    if m.running_mean is None or not m.track_running_stats:
        raise DeclinedError  # statistics of the batch
    ones = torch.ones(m.num_features, dtype=dtype_of(x))
    factors, shifts = (
        default if given is None else given
        for given, default in zip(_affine(b, m, None, None), (ones, torch.zeros_like(ones)), strict=True)
    )
    statistics = (b.own(m, name) for name in ("running_mean", "running_var"))
    return b.op("BatchNormalization", x, factors, shifts, *statistics, epsilon=m.eps)


def _response_norm(b: Builder, m: nn.LocalResponseNorm, x: Value) -> Value:
    if m.size % 2 == 0:
        raise DeclinedError  # torch and ONNX put the longer half at different sides
    return b.op("LRN", x, size=m.size, alpha=m.alpha, beta=m.beta, bias=m.k)


def _normalize(b: Builder, m: ops.Normalize, x: Value) -> Value:
    kind = {1.0: "ReduceL1", 2.0: "ReduceL2"}.get(float(m.p))
    if kind is None:
        raise DeclinedError
    norm = b.op(kind, x, [m.dim] if isinstance(m.dim, int) else list(m.dim), keepdims=1)
    return b.op("Div", x, b.op("Clip", norm, m.eps))


NORMS: Mapping[type[nn.Module], Form] = {
    ops.Mean: _reduction("ReduceMean"), ops.Sum: _reduction("ReduceSum"), ops.Amax: _reduction("ReduceMax"),
    ops.Amin: _reduction("ReduceMin"), nn.Softmax: _softmax("Softmax"), ops.Softmax: _softmax("Softmax"),
    nn.Softmax2d: lambda b, m, x: b.op("Softmax", x, axis=-3), nn.Softmin: _softmin,
    nn.LogSoftmax: _softmax("LogSoftmax"), ops.LogSoftmax: _softmax("LogSoftmax"), ops.MaskedSoftmax: _masked_softmax,
    nn.LayerNorm: _layer_norm, ops.LayerNorm: _layer_norm, nn.RMSNorm: _rms_norm, ops.RMSNorm: _rms_norm,
    nn.GroupNorm: _group_norm, ops.GroupNorm: _group_norm, nn.InstanceNorm1d: _instance_norm,
    nn.InstanceNorm2d: _instance_norm, nn.InstanceNorm3d: _instance_norm, ops.InstanceNorm: _instance_norm,
    nn.BatchNorm1d: _batch_norm, nn.BatchNorm2d: _batch_norm, nn.BatchNorm3d: _batch_norm,
    nn.LocalResponseNorm: _response_norm, ops.Normalize: _normalize,
}  # fmt: skip
