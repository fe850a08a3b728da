"""Conv and ConvTranspose, of any number of dimensions: a matrix product for each position of the kernel."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from qatc.simulator.node import Form, Node
from qatc.simulator.sums import finished, holding
from qatc.simulator.values import Array, OnGrid, Value


def _conv(node: Node, x: Value, weight: Value, bias: Value | None = None) -> Value | None:
    if not isinstance(x, OnGrid) or not isinstance(weight, OnGrid) or not x.grid.per_tensor:
        return None
    if not weight.grid.per_tensor and weight.grid.axis != 0:
        return None
    groups, rank = node.get("group", 1), x.steps.ndim - 2
    strides, dilations = node.get("strides", [1] * rank), node.get("dilations", [1] * rank)
    pads = _pads(node, x.steps.shape[2:], weight.steps.shape[2:], strides, dilations)
    sums = convolved(x.steps, weight.steps, strides, pads, dilations, groups)
    return finished(sums, x, weight, bias, 1)


def _conv_transpose(node: Node, x: Value, weight: Value, bias: Value | None = None) -> Value | None:
    if not isinstance(x, OnGrid) or not isinstance(weight, OnGrid) or not x.grid.per_tensor:
        return None
    groups, rank = node.get("group", 1), x.steps.ndim - 2
    if not weight.grid.per_tensor and (weight.grid.axis != 1 or groups > 1):
        return None
    if "output_shape" in node.attributes or node.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    ones, none = [1] * rank, [0] * rank
    strides, dilations, pads, extra = (
        node.get(name, default)
        for name, default in (("strides", ones), ("dilations", ones), ("pads", none * 2), ("output_padding", none))
    )
    sums = transposed(x.steps, weight.steps, strides, pads, dilations, extra, groups)
    return finished(sums, x, weight, bias, 1)


def _pads(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Return the widths in front of each dimension, then those behind."""
    how = node.get("auto_pad", "NOTSET")
    if how == "VALID":
        return [0] * (2 * len(sizes))
    if how == "NOTSET":
        return list(node.get("pads", [0] * (2 * len(sizes))))
    all_of = [
        max(0, (-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size)
        for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less, more = [width // 2 for width in all_of], [width - width // 2 for width in all_of]
    return [*less, *more] if how == "SAME_UPPER" else [*more, *less]


def convolved(
    x: Array, weight: Array, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int], groups: int
) -> Array:
    """Return the sums [N, out, ...] of x [N, in, ...] and weight [out, in / groups, ...], whole numbers in floats."""
    outputs, inputs, *kernel = weight.shape
    dtype = holding(x, weight, inputs * int(np.prod(kernel)))
    half = len(kernel)
    padded = np.pad(x.astype(dtype), [(0, 0), (0, 0), *zip(pads[:half], pads[half:], strict=True)])
    sizes = [
        (size - d * (k - 1) - 1) // s + 1
        for size, k, s, d in zip(padded.shape[2:], kernel, strides, dilations, strict=True)
    ]
    split = weight.astype(dtype).reshape(groups, outputs // groups, inputs, *kernel)
    every: tuple[slice | int, ...] = (slice(None), slice(None), slice(None))
    sums = np.zeros((len(x), groups, outputs // groups, int(np.prod(sizes))), dtype)
    for place in product(*map(range, kernel)):
        at = zip(place, sizes, strides, dilations, strict=True)
        part = padded[(slice(None), slice(None), *(slice(k * d, k * d + s * n, s) for k, n, s, d in at))]
        columns = part.reshape(len(x), groups, inputs, -1)
        taps = split[every + place]
        sums += taps * columns if inputs == 1 else taps @ columns
    return sums.reshape(len(x), outputs, *sizes)


def transposed(
    x: Array, weight: Array, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int],
    extra: Sequence[int], groups: int,
) -> Array:  # fmt: skip
    """Return the sums [N, out, ...] of x [N, in, ...] and weight [in, out / groups, ...], whole numbers in floats."""
    inputs, outputs, *kernel = weight.shape
    dtype = holding(x, weight, inputs // groups * int(np.prod(kernel)))
    half, sizes = len(kernel), x.shape[2:]
    reach = [
        (size - 1) * s + d * (k - 1) + 1 + e
        for size, k, s, d, e in zip(sizes, kernel, strides, dilations, extra, strict=True)
    ]
    every: tuple[slice | int, ...] = (slice(None), slice(None), slice(None))
    sums = np.zeros((len(x), groups * outputs, *reach), dtype)
    columns = x.astype(dtype).reshape(len(x), groups, inputs // groups, -1)
    split = weight.astype(dtype).reshape(groups, inputs // groups, outputs, *kernel).swapaxes(1, 2)
    for place in product(*map(range, kernel)):
        at = zip(place, sizes, strides, dilations, strict=True)
        where = (slice(None), slice(None), *(slice(k * d, k * d + s * n, s) for k, n, s, d in at))
        sums[where] += (split[every + place] @ columns).reshape(len(x), groups * outputs, *sizes)
    ends = zip(pads[:half], pads[half:], sums.shape[2:], strict=True)
    return sums[(slice(None), slice(None), *(slice(front, size - back) for front, back, size in ends))]


CONVOLUTIONS: Mapping[str, Form] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
