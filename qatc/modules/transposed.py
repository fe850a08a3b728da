"""Transposed convolutions as they train and as they deploy."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from qatc.modules.fused import Fused


class FusedConvTranspose(Fused):
    """What the transposed convolutions share: weights are [in, out / groups, ...].

    With groups, output channel g * (out / groups) + j is made by the inputs of group g alone, through column j: a scale
    along axis 1 would be shared by the j-th channels of all groups, and one per group and channel has no form in ONNX.
    So a grouped one has one scale.
    """

    channel_axis = 1
    convolve: Callable[..., Tensor]
    groups: int

    @property
    def weight_axis(self) -> int | None:
        """Axis 1, or None with groups."""
        return self.channel_axis if self.groups == 1 else None

    def over_weight(self, factor: Tensor, weight: Tensor) -> Tensor:
        """Return a factor per output channel, [out], as [in, out / groups, 1, ...]."""
        rows, columns = weight.shape[:2]
        per_group = factor.view(self.groups, 1, columns).expand(-1, rows // self.groups, -1)
        return per_group.reshape(rows, columns, *[1] * (weight.dim() - 2))

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None, output_size: Any = None) -> Tensor:
        """Convolve, to the size asked for."""
        layer: Any = self
        padding = layer._output_padding(
            x, output_size, layer.stride, layer.padding, layer.kernel_size, weight.dim() - 2, layer.dilation
        )
        return type(self).convolve(
            x, weight, bias, layer.stride, layer.padding, padding, layer.groups, layer.dilation
        )  # fmt: skip


class FusedConvTranspose1d(FusedConvTranspose, nn.ConvTranspose1d):  # type: ignore[misc]  # output_size comes by its name
    """ConvTranspose1d [+ BatchNorm][+ activation]."""

    output_axis = -2
    convolve = staticmethod(F.conv_transpose1d)


class FusedConvTranspose2d(FusedConvTranspose, nn.ConvTranspose2d):  # type: ignore[misc]  # output_size comes by its name
    """ConvTranspose2d [+ BatchNorm][+ activation]."""

    output_axis = -3
    convolve = staticmethod(F.conv_transpose2d)


class FusedConvTranspose3d(FusedConvTranspose, nn.ConvTranspose3d):  # type: ignore[misc]  # output_size comes by its name
    """ConvTranspose3d [+ BatchNorm][+ activation]."""

    output_axis = -4
    convolve = staticmethod(F.conv_transpose3d)
