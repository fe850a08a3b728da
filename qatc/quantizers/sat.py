"""SAT's weights: normalised by tanh, then quantized (Jin et al., arXiv:1912.10207; N2D2's QWeight=SAT)."""

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from qatc.grid import Grid, finish_scale, per_channel
from qatc.quantizers.fake_quantize import fake_quantize, fake_quantize_covered, straight_through
from qatc.quantizers.weight import WeightQuantizer
from qatc.spec import MIN_BITS, QuantSpec


class WeightSAT(WeightQuantizer):
    """t = tanh(w) / max|tanh(w)|; while clamping Q = t, then Q = round(r t) / r with r = 2^(b-1) - 1.

    N2D2's mode "Symmetric"; its others are below. Where no BatchNorm is folded in, Q is divided by sqrt(n Var(Q)), n
    the fan-out (ApplyScaling; section 4.1 of the paper). The gradient takes maximum and variance for constants:
    dw = dQ sech^2(w) / (max|tanh(w)| sqrt(n Var(Q))).

    w is the weight before a BatchNorm is folded in, whatever scales the file has: a folded Q lies on a scale per
    channel, so a layer with a BatchNorm needs those. A channel that the BatchNorm turns round is quantized turned
    round. The network is another one from the moment weights are clamped; it has to be trained so.
    """

    own_range: ClassVar[bool] = True
    transforms: ClassVar[bool] = True
    homogeneous: ClassVar[bool] = False
    folds_per_channel: ClassVar[bool] = True

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the steps of the normalised weight, taken to the folded one by `gain`."""
        scale = self._factor(x, gain) / self.spec.qmax
        if self.spec.axis is not None:
            scale = scale.expand(x.shape[self.spec.axis]) * (1.0 if gain is None else gain)
        return Grid(finish_scale(scale, self.spec, floor), torch.zeros_like(scale))

    def values(self, x: Tensor, grid: Grid, gain: Tensor | None) -> Tensor:
        """Return Q but for its last rounding, scaled or with its gain."""
        factor = self._factor(x.detach(), gain) if gain is None else per_channel(gain.detach(), x, self.spec.axis)
        return (self._levels(self._normalised(x, gain)) * factor).to(x.dtype)

    def quantize(self, x: Tensor, grid: Grid) -> Tensor:
        """Return Q; nothing is clipped, unless a power of two was rounded down."""
        if self.spec.pow2 in ("down", "round"):
            return fake_quantize(x, grid, self.spec)
        return fake_quantize_covered(x, grid, self.spec)

    def clamp(self, x: Tensor, grid: Grid) -> Tensor:
        """Return x: it is within the grid's ends."""
        return x

    def _levels(self, t: Tensor) -> Tensor:
        """Return what the nearest steps of 1 / qmax are Q to; while clamping, Q itself."""
        return t

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
        levels = self._levels(self._normalised(x, None).detach())
        if self.stage != "clamp":
            levels = torch.round(levels * self.spec.qmax) / self.spec.qmax
        channels = self.spec.axis or 0
        fan_out = x.shape[channels] * math.prod(x.shape[2:])
        return torch.rsqrt((fan_out * levels.var()).clamp(min=torch.finfo(torch.float32).tiny))


class WeightSATAsymmetric(WeightSAT):
    """N2D2's mode "Asymmetric": Q = round(r t') / r, t' = (1 + 1 / 2r) t - 1 / 2r, from -1 - 1 / r to 1.

    While clamping Q = t'. It uses the lowest code too, which targets do not take at 8 bits.
    """

    widths: ClassVar[range] = range(2, 8)

    @classmethod
    def stored(cls, spec: QuantSpec) -> QuantSpec:
        """Return the grid with its lowest code."""
        return replace(spec, narrow=False)

    def _levels(self, t: Tensor) -> Tensor:
        half = 1 / (2 * self.spec.qmax)
        return (1 + half) * t - half


class WeightSATDefault(WeightSAT):
    """N2D2's mode "Default" (DoReFa-Net): Q = 2 round(R (t + 1) / 2) / R - 1, R = 2^b - 1.

    Its values are the odd multiples of 1 / R: zero is none of them, and as integers they take b + 1 bits, which is what
    the file has, as N2D2's own integer form does. So b is at most 7.
    """

    widths: ClassVar[range] = range(MIN_BITS, 8)
    stretch: ClassVar[float] = 0.0

    @classmethod
    def stored(cls, spec: QuantSpec) -> QuantSpec:
        """Return a grid from -R to R."""
        return replace(spec, bits=spec.bits + 1, narrow=True)

    def _levels(self, t: Tensor) -> Tensor:
        if self.stage == "clamp":
            return t
        r = self.spec.qmax
        wide = (1 + self.stretch / r) * t
        return straight_through(wide, (2 * torch.round(r * (wide.detach() + 1) / 2) - r) / r)


class WeightSATFullRange(WeightSATDefault):
    """N2D2's mode "FullRange": the same of (1 + 0.9998 / R) t, which makes the bins of the end codes as wide as any."""

    stretch: ClassVar[float] = 0.9998
