"""A transposed convolution as an ordinary one, for runtimes that have only that in integers.

Position `o` of a transposed convolution's result is a sum over inputs i and taps k with `o + padding = i * stride + k *
dilation`. So the positions of one phase, `o` modulo the stride, are an ordinary convolution of every stride-th tap. The
phases of a channel become channels of one convolution, put side by side afterwards (the sub-pixel form, Shi et al.,
arXiv:1609.07009). It adds the same products, and zeros, so the integers are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from qatc.errors import LoweringError
from qatc.ir import TensorType
from qatc.lowering.weights import Weights
from qatc.modules.transposed import FusedConvTranspose


@dataclass(frozen=True)
class Axis:
    """One dimension of positions.

    `taps[phase][j]` is the tap of the transposed kernel that stands at place j of the convolution's, None for a zero.
    `padding` is what the convolution gets in front and behind, `crop` what its phases, side by side, have too much.
    """

    stride: int
    dilation: int
    taps: tuple[tuple[int | None, ...], ...]
    padding: tuple[int, int]
    crop: tuple[int, int]


def axis_of(kernel: int, stride: int, padding: int, dilation: int, output_padding: int) -> Axis:
    """Return the form of one dimension of a transposed convolution."""
    reach = (kernel - 1) * dilation
    # Counted from the padding on, phases need no crop in front, but their taps may spread over one input more.
    offset = min((0, padding % stride), key=lambda shift: (_spread(reach, stride, shift), -shift))
    far, near = _inputs(reach, stride, offset)
    step = dilation if stride == 1 else 1  # at other strides the taps of a phase lie anyhow: zeros fill the gaps
    first = min(padding // stride, far)
    before = far - first
    behind = max(0, (output_padding + reach - padding - offset) // stride - near)
    front = padding - offset - first * stride
    made = (before + behind - far + near + 1) * stride  # but (inputs - 1) * stride, as below
    back = made - front - (reach - 2 * padding + output_padding + 1)
    places = range((far - near) // step + 1)
    taps = tuple(
        tuple(_tap(phase + offset + (far - j * step) * stride, reach, dilation) for j in places)
        for phase in range(stride)
    )
    return Axis(stride, step, taps, (before, behind), (front, back))


def _inputs(reach: int, stride: int, offset: int) -> tuple[int, int]:
    """Return how many inputs back the furthest and the nearest tap of any phase read."""
    return (reach - offset) // stride, -((stride - 1 + offset) // stride)


def _spread(reach: int, stride: int, offset: int) -> int:
    far, near = _inputs(reach, stride, offset)
    return far - near


def _tap(distance: int, reach: int, dilation: int) -> int | None:
    return distance // dilation if 0 <= distance <= reach and distance % dilation == 0 else None


@dataclass(frozen=True)
class SubPixel:
    """The form of a whole layer."""

    axes: tuple[Axis, ...]
    groups: int

    @property
    def phases(self) -> int:
        """How many channels each channel becomes."""
        return prod(axis.stride for axis in self.axes)

    def kernel(self, weight: Tensor) -> Tensor:
        """Return a weight [in, out / groups, taps...] as the convolution's, [out * phases, in / groups, places...]."""
        rank = len(self.axes)
        for dim, axis in zip(range(2, 2 + 2 * rank, 2), self.axes, strict=True):
            zero = weight.shape[dim]
            index = torch.tensor([zero if tap is None else tap for phase in axis.taps for tap in phase])
            weight = torch.cat([weight, torch.zeros_like(weight.narrow(dim, 0, 1))], dim)
            weight = weight.index_select(dim, index).unflatten(dim, (axis.stride, -1))
        grouped: Tensor = weight.unflatten(0, (self.groups, -1))  # [groups, in / groups, out / groups, phase, ...]
        phases, places = (range(first, first + 2 * rank, 2) for first in (3, 4))
        return grouped.permute(0, 2, *phases, 1, *places).flatten(0, rank + 1)

    def weights(self, weights: Weights) -> Weights:
        """Return a layer's weights as the convolution's."""
        spec = weights.spec
        return Weights(
            self.kernel(weights.codes),
            self._for_phases(weights.scale),
            spec if spec.axis is None else replace(spec, axis=0),
            None if weights.bias is None else self._for_phases(weights.bias),
            None if weights.bias_step is None else self._for_phases(weights.bias_step),
        )

    def _for_phases(self, values: Tensor) -> Tensor:
        """Return what each channel has, for each of its phases; what all have in common stays."""
        return values.repeat_interleave(self.phases) if values.dim() else values

    def places(self, sizes: Sequence[int | None]) -> list[int | None]:
        """Return how many positions the convolution gives of so many; None where that is open."""
        return [
            None if size is None else size + sum(axis.padding) - axis.dilation * (len(axis.taps[0]) - 1)
            for size, axis in zip(sizes, self.axes, strict=True)
        ]


def sub_pixel(
    layer: FusedConvTranspose, reads: TensorType | None, gives: TensorType | None, *, sizes_given: bool = False
) -> SubPixel:
    """Return the form of a layer that reads and gives tensors of these types.

    Raises `LoweringError` where a size is unknown that the result is asked to have (`sizes_given`).
    """
    axes = []
    geometry: Any = layer
    rank = len(geometry.stride)
    before, after = (() if kind is None else kind.shape[-rank:] for kind in (reads, gives))
    if not before or not after or (sizes_given and None in before + after):
        raise LoweringError(
            "a size of what a transposed convolution reads or gives is unknown, or follows the batch",
            remedy="give example_inputs to prepare, or exclude it by a rule of the configuration",
        )
    described = (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation, geometry.output_padding)
    for reading, giving, kernel, stride, padding, dilation, more in zip(before, after, *described, strict=True):
        if reading is not None and giving is not None:
            more = giving - ((reading - 1) * stride - 2 * padding + (kernel - 1) * dilation + 1)
        axes.append(axis_of(kernel, stride, padding, dilation, more))
    return SubPixel(tuple(axes), geometry.groups)
