"""Images of another size: resized, or with a border."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class Interpolate(nn.Module):
    """`torch.nn.functional.interpolate`; a size that the network computes is an argument of forward."""

    def __init__(
        self,
        size: int | tuple[int, ...] | None = None,
        scale_factor: float | tuple[float, ...] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
        antialias: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.recompute_scale_factor, self.antialias = (
            align_corners,
            recompute_scale_factor,
            antialias,
        )

    def forward(self, x: Tensor, size: Any = None) -> Tensor:
        """Return x resized, [N, C, ...]."""
        return F.interpolate(
            x, self.size if size is None else size, self.scale_factor, self.mode, self.align_corners,
            self.recompute_scale_factor, self.antialias,
        )  # fmt: skip


class Pad(nn.Module):
    """`torch.nn.functional.pad`: a border of zeros, of another value, or of the tensor's own; or a border cut off."""

    def __init__(self, pad: tuple[int, ...] = (), mode: str = "constant", value: float | None = None) -> None:
        super().__init__()
        self.pad, self.mode, self.value = pad, mode, value

    def forward(self, x: Tensor, pad: Any = None) -> Tensor:
        """Return x with its border; the widths are of the last dimension first."""
        return F.pad(x, self.pad if pad is None else pad, self.mode, self.value)
