"""SAT's weights: normalised by tanh, then quantized (Jin et al., arXiv:1912.10207; N2D2's QWeight=SAT)."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from qatc.errors import ConfigError
from qatc.grid import Grid, finish_scale, per_channel
from qatc.quantizers.base import Quantizer
from qatc.quantizers.fake_quantize import fake_quantize, fake_quantize_covered
from qatc.spec import QuantSpec


class WeightSAT(Quantizer):
    """t = tanh(w) / max|tanh(w)|; while clamping Q = t, then Q = round(r t) / r with r = 2^(b-1) - 1.

    N2D2's mode "Symmetric"; its other modes have no code for zero, or one code more on one side, which the sign of a
    BatchNorm's factor may ask of the other. Where no BatchNorm is folded in, Q is divided by sqrt(n Var(Q)), n the
    fan-out (ApplyScaling; section 4.1 of the paper). The gradient takes maximum and variance for constants:
    dw = dQ sech^2(w) / (max|tanh(w)| sqrt(n Var(Q))).

    w is the weight before a BatchNorm is folded in, whatever scales the file has: a folded Q lies on a scale per
    channel, so a layer with a BatchNorm needs those. The network is another one from the moment weights are clamped;
    it has to be trained so.
    """

    transforms: ClassVar[bool] = True
    folds_per_channel: ClassVar[bool] = True

    @classmethod
    def of(cls, spec: QuantSpec, weight: Tensor, range_name: str | None = None) -> "WeightSAT":
        """Return the quantizer of a weight.

        Raises:
            ConfigError: a range estimator is named: the range is that of tanh.

        """
        if range_name is not None:
            raise ConfigError("the quantizer 'sat' has a range of its own", remedy="leave weight_range out")
        return cls(spec)

    def record(self, x: Tensor, site: int) -> None:
        """Do nothing: the range is [-1, 1]."""

    def observe(self, x: Tensor, site: int) -> None:
        """Do nothing, likewise."""

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the steps 1 / r of the normalised weight, taken to the folded one by `gain`."""
        scale = self._factor(x, gain) / self.spec.qmax
        if self.spec.axis is not None:
            scale = scale.expand(x.shape[self.spec.axis]) * (1.0 if gain is None else gain)
        return Grid(finish_scale(scale, self.spec, floor), torch.zeros_like(scale))

    def values(self, x: Tensor, grid: Grid, gain: Tensor | None) -> Tensor:
        """Return t, scaled or with its gain."""
        factor = self._factor(x.detach(), gain) if gain is None else per_channel(gain.detach(), x, self.spec.axis)
        return (self._normalised(x, gain) * factor).to(x.dtype)

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Return Q; nothing is clipped, unless a power of two was rounded down."""
        if self.spec.pow2 in ("down", "round"):
            return fake_quantize(x, grid, self.spec)
        return fake_quantize_covered(x, grid, self.spec)

    def clamp(self, x: Tensor, grid: Grid) -> Tensor:
        """Return x: it is within the grid's ends."""
        return x

    def _normalised(self, x: Tensor, gain: Tensor | None) -> Tensor:
        own = x.float()
        if gain is not None:
            own = own / per_channel(gain.detach().masked_fill(gain == 0, 1.0), x, self.spec.axis)
        squashed = torch.tanh(own)
        return squashed / squashed.detach().abs().amax().clamp(min=torch.finfo(torch.float32).tiny)

    def _factor(self, x: Tensor, gain: Tensor | None) -> Tensor:
        """Return 1 / sqrt(n Var(Q)), 0-d; 1 where a BatchNorm takes up the scale."""
        if gain is not None:
            return torch.ones((), device=x.device)
        normalised = self._normalised(x, None)
        if self.stage != "clamp":
            normalised = torch.round(normalised * self.spec.qmax) / self.spec.qmax
        channels = self.spec.axis or 0
        fan_out = x.shape[channels] * math.prod(x.shape[2:])
        return torch.rsqrt((fan_out * normalised.var()).clamp(min=torch.finfo(torch.float32).tiny))
