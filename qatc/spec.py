"""What a tensor is quantized to (`QuantSpec`)."""

from dataclasses import dataclass
from typing import Literal

import torch

from qatc.errors import ConfigError

Pow2 = Literal["up", "down", "round"]
Ste = Literal["masked", "unmasked"]
STES: tuple[Ste, ...] = ("masked", "unmasked")
BATCH_NORM_MODES = ("batch", "two-convolutions", "straight-through", "frozen", "folded")
# In these, training uses no batch statistics: evaluated alone are they the float model.
WITHOUT_BATCH_STATISTICS = ("frozen", "folded")
MAX_BITS = 16
MIN_BITS = 1
# Of a weight and what it reads together.
PRODUCT_BITS = 24
MIN_ACTIVATION_BITS = 2


@dataclass(frozen=True)
class QuantSpec:
    """The integer grid of one tensor: real = (code - zero_point) * scale.

    `symmetric` fixes the zero point at 0. `axis` is the channel axis with a scale per channel, or None for one scale.
    `narrow` drops the lowest code, so that the grid of a signed tensor is mirror-symmetric. `pow2` rounds scales to a
    power of two: up (the range is covered), down (the grid stays inside it) or to the nearest exponent. `upper` is the
    value that the producer clips at (ReLU6: 6): the grid never reaches beyond it, since runtimes fuse a clip only if it
    is redundant. Of 1 bit the signed codes are -1 and 1.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    axis: int | None = None
    narrow: bool = False
    pow2: Pow2 | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ConfigError(f"{self.bits} bits asked for", remedy=f"choose {MIN_BITS} to {MAX_BITS}")
        if self.narrow and not (self.signed and self.symmetric):
            raise ConfigError("a narrow range needs a signed, symmetric grid", remedy="drop narrow, or set both")

    @property
    def qmin(self) -> int:
        """The lowest code."""
        if self.signed and self.bits == 1:
            return -1
        return int(self.narrow) - (1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """The highest code."""
        return (1 << (self.bits - self.signed)) - 1 if self.bits > 1 else 1

    @property
    def storage_bits(self) -> int:
        """How many bits the codes are kept in: 8, or above that 16."""
        return 8 if self.bits <= 8 else 16

    @property
    def dtype(self) -> torch.dtype:
        """The storage type of the codes."""
        if self.storage_bits == 8:
            return torch.int8 if self.signed else torch.uint8
        return torch.int16 if self.signed else torch.uint16

    def __str__(self) -> str:
        """Render the dump form: `s8/ch0`, `u8`, `u8/asym`, `s4/pow2`."""
        parts = [f"{'s' if self.signed else 'u'}{self.bits}"]
        if self.axis is not None:
            parts.append(f"ch{self.axis}")
        if not self.symmetric:
            parts.append("asym")
        if self.pow2:
            parts.append("pow2" if self.pow2 == "up" else f"pow2-{self.pow2}")
        return "/".join(parts)
