"""Images of another size: resized, or with a border."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir
from torch import nn

from qatc.lowering.emit.builder import Builder, DeclinedError, Form, Size, Value, known, shape_of, typed
from qatc.lowering.emit.parts import END, sliced
from qatc.lowering.emit.pools import adaptive, each
from qatc.lowering.emit.shapes import listed
from qatc.modules import ops

_MODES = {"nearest": "nearest", "nearest-exact": "nearest", "linear": "linear", "bilinear": "linear",
          "trilinear": "linear", "bicubic": "cubic"}  # fmt: skip


def _interpolate(b: Builder, m: ops.Interpolate | nn.Upsample, x: Value, size: Any = None) -> Value:
    before, after = shape_of(x)[2:], b.gives.shape[2:]
    rank = len(before)
    if m.mode == "area":
        return adaptive(rank, "ReduceMean", "AveragePool")(b, _to_size(rank, after), x)
    antialias = getattr(m, "antialias", False)
    if m.mode not in _MODES:
        raise DeclinedError
    attributes: dict[str, Any] = {"mode": _MODES[m.mode], "coordinate_transformation_mode": _coordinates(m)}
    if attributes["mode"] == "nearest":
        attributes["nearest_mode"] = "round_prefer_ceil" if m.mode == "nearest-exact" else "floor"
    if attributes["mode"] == "cubic":
        attributes["cubic_coeff_a"] = -0.75
    if antialias:
        attributes |= {"antialias": 1, "exclude_outside": 1}
    if None in before + after:
        return _to_open_sizes(b, m, x, size, attributes)
    sizes = [(have, made) for have, made in zip(before, after, strict=True) if have is not None and made is not None]
    scales = _scales(m, size, sizes)
    if before == after and set(scales) == {1.0}:
        return x
    if rank == 1 and attributes["mode"] == "linear":  # runtimes interpolate planes
        plane = typed(b.op("Unsqueeze", x, [2]), b.gives, (*shape_of(x)[:2], 1, before[0]))
        return b.op("Squeeze", _resized(b, plane, [(1, 1), *sizes], [1.0, *scales], attributes), [2])
    return _resized(b, x, sizes, scales, attributes)


def _to_size(rank: int, sizes: Sequence[int | None]) -> Any:
    return getattr(nn, f"AdaptiveAvgPool{rank}d")(tuple(sizes))


def _scales(m: Any, size: Any, sizes: Sequence[tuple[int, int]]) -> list[float]:
    """Return the factors by which coordinates are divided, as torch takes them."""
    if m.scale_factor is None or size is not None or getattr(m, "recompute_scale_factor", None):
        return [made / have for have, made in sizes]
    return [float(factor) for factor in _factors(m.scale_factor, len(sizes))]


def _factors(given: Any, rank: int) -> list[float]:
    return [given] * rank if isinstance(given, int | float) else list(given)


def _coordinates(m: Any) -> str:
    if m.mode == "nearest":
        return "asymmetric"
    return "align_corners" if m.align_corners else "half_pixel"


def _resized(
    b: Builder, x: Value, sizes: Sequence[tuple[int, int]], scales: Sequence[float], attributes: Mapping[str, Any]
) -> Value:
    factors = np.array([1.0, 1.0, *scales], np.float32)
    if all(int(have * float(factor)) == made for (have, made), factor in zip(sizes, factors[2:], strict=True)):
        return b.op("Resize", x, None, factors, **attributes)
    wanted = [b.size(x, d) if size is None else size for d, size in enumerate(shape_of(x)[:2])]
    return b.op("Resize", x, None, None, [*wanted, *(made for _, made in sizes)], **attributes)


def _to_open_sizes(b: Builder, m: Any, x: Value, size: Any, attributes: Mapping[str, Any]) -> Value:
    """Resize where sizes are open: by the factors, or to sizes that the file computes."""
    rank = len(shape_of(x)) - 2
    wanted = listed(m.size if size is None else size)
    if rank == 1 or getattr(m, "recompute_scale_factor", None):
        raise DeclinedError
    if wanted == [None]:
        return b.op("Resize", x, None, np.array([1.0, 1.0, *_factors(m.scale_factor, rank)], np.float32), **attributes)
    made = wanted * rank if len(wanted) == 1 else wanted
    if not all(isinstance(one, int | Size) for one in made):
        raise DeclinedError
    kept = [b.size(x, d) if have is None else have for d, have in enumerate(shape_of(x)[:2])]
    return b.op("Resize", x, None, None, [*kept, *made], **attributes)


def padded(b: Builder, x: Value, widths: Sequence[int], mode: str, value: float = 0.0) -> Value:
    """Return x with a border, of widths from the last dimension on, each in front and behind."""
    if not all(isinstance(width, int) for width in widths):
        raise DeclinedError
    rank, pairs = len(shape_of(x)), [*zip(widths[::2], widths[1::2], strict=True)]
    before, after = ([0] * (rank - len(pairs)) + [pair[i] for pair in reversed(pairs)] for i in (0, 1))
    if not any(widths):
        return x
    if mode == "circular":
        y = _around(b, x, before, after)
    else:
        y = b.op("Pad", x, [*before, *after], *([value] if value else []), mode=_PADS[mode])
    sizes = zip(shape_of(x), before, after, strict=True)
    y.shape = onnx_ir.Shape([None if size is None else size + first + last for size, first, last in sizes])
    return y


_PADS = {"constant": "constant", "zeros": "constant", "reflect": "reflect", "replicate": "edge"}


def _around(b: Builder, x: Value, before: Sequence[int], after: Sequence[int]) -> Value:
    for d, (first, last) in enumerate(zip(before, after, strict=True)):
        if first < 0 or last < 0:
            raise DeclinedError
        size = known(x, d) if first or last else 0
        parts = [sliced(b, x, {d: (size - first, END, 1)})] if first else []
        parts += [x, *([sliced(b, x, {d: (0, last, 1)})] if last else [])]
        if len(parts) > 1:
            shape = list(shape_of(x))
            shape[d] = size + first + last
            x = b.op("Concat", *parts, axis=d)
            x.shape = onnx_ir.Shape(shape)
    return x


def _pad(b: Builder, m: ops.Pad, x: Value, pad: Any = None) -> Value:
    return padded(b, x, m.pad if pad is None else pad, m.mode, m.value or 0.0)


def _border(mode: str) -> Form:
    def write(b: Builder, m: Any, x: Value) -> Value:
        rank = next(rank for rank in (1, 2, 3) if type(m).__name__.endswith(f"{rank}d"))
        return padded(b, x, each(m.padding, 2 * rank), mode, getattr(m, "value", 0.0))

    return write


def _unfold(b: Builder, m: nn.Unfold, x: Value) -> Value:
    if len(shape_of(x)) != 4:
        raise DeclinedError
    kernel, dilation, padding, stride = (each(v, 2) for v in (m.kernel_size, m.dilation, m.padding, m.stride))
    y = padded(b, x, [padding[1], padding[1], padding[0], padding[0]], "constant")
    taken = []
    for d in (0, 1):
        last = known(y, 2 + d) - dilation[d] * (kernel[d] - 1)
        taken.append(np.add.outer(np.arange(kernel[d]) * dilation[d], np.arange(0, last, stride[d])))
    y = b.op("Gather", b.op("Gather", y, taken[0], axis=2), taken[1], axis=4)
    return b.reshape(b.op("Transpose", y, perm=[0, 1, 2, 4, 3, 5]), b.gives.shape)


def _fold(b: Builder, m: nn.Fold, x: Value) -> Value:
    if len(shape_of(x)) != 3:
        raise DeclinedError
    padding = each(m.padding, 2)
    return b.op(
        "Col2Im", x, each(m.output_size, 2), each(m.kernel_size, 2),
        dilations=each(m.dilation, 2), pads=[*padding, *padding], strides=each(m.stride, 2),
    )  # fmt: skip


_BORDERS = {"ZeroPad": "constant", "ConstantPad": "constant", "ReflectionPad": "reflect",
            "ReplicationPad": "replicate", "CircularPad": "circular"}  # fmt: skip

RESIZES: Mapping[type[nn.Module], Form] = {
    **dict.fromkeys(
        (ops.Interpolate, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), _interpolate
    ),
    ops.Pad: _pad,
    nn.Unfold: _unfold,
    nn.Fold: _fold,
    **{getattr(nn, f"{name}{rank}d"): _border(mode) for name, mode in _BORDERS.items() for rank in (1, 2, 3)},
}  # fmt: skip
