"""The quantizer of a tensor whose grid the target knows: nothing is recorded, and nothing moves."""

from dataclasses import replace

import torch
from torch import Tensor

from qatc.grid import Grid, power_of_two
from qatc.quantizers.base import Quantizer
from qatc.spec import QuantSpec


class Given(Quantizer):
    """A scale and a zero point for good; where scales are to be powers of two, the nearest one."""

    scale: float
    zero_point: int

    @classmethod
    def of(cls, spec: QuantSpec, scale: float, zero_point: int, signed: bool) -> "Given":
        """Return the quantizer of that grid, of the spec's width."""
        made = cls(replace(spec, signed=signed, symmetric=zero_point == 0, upper=None))
        made.scale, made.zero_point = scale, zero_point
        return made

    def with_spec(self, spec: QuantSpec, sites: int | None = None) -> "Given":
        """Return a fresh quantizer of the same grid."""
        made = super().with_spec(spec, sites)
        assert isinstance(made, Given)
        made.scale, made.zero_point = self.scale, self.zero_point
        return made

    def record(self, x: Tensor, site: int) -> None:
        """Do nothing: there is no range to find."""

    def observe(self, x: Tensor, site: int) -> None:
        """Do nothing, likewise."""

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the grid."""
        scale = torch.tensor(self.scale, dtype=torch.float32, device=self.finite.device)
        zero_point = torch.tensor(float(self.zero_point), device=self.finite.device)
        return Grid(scale if self.spec.pow2 is None else power_of_two(scale, "round"), zero_point)
