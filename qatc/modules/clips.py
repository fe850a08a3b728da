"""Activations that only clip, which in training leave that to the quantizer behind them.

An unsigned grid without zero point clips at zero anyway. Leaving it to the quantizer saves a pass over the tensor each
way, and a copy of it kept for the backward pass. In evaluation, and for whoever hooks the module, they clip themselves.
"""

import math
from typing import TypeVar

from torch import Tensor, nn

from qatc.quantizers.base import Quantizer

T = TypeVar("T", bound="Clip")


def is_left(activation: nn.Module, then: Quantizer | None) -> bool:
    """Say whether the quantizer that alone reads an activation does all that this one does, at this call."""
    match activation:
        case nn.ReLU():
            low, high = 0.0, math.inf
        case nn.Hardtanh():
            low, high = float(activation.min_val), float(activation.max_val)
        case _:
            return False
    return then is not None and then.clips_at(low, high)


class Clip(nn.Module):
    """What the clips share; mixed into a torch activation."""

    @classmethod
    def of(cls: type[T], activation: nn.Module) -> T:
        """Return the form of a torch activation that can leave its clipping."""
        made = cls.__new__(cls)
        made.__dict__ = activation.__dict__.copy()
        return made

    def plain(self) -> nn.Module:
        """Return the torch activation again."""
        kind = next(kind for kind, form in CLIPS.items() if type(self) is form)
        made = kind.__new__(kind)
        made.__dict__ = self.__dict__.copy()
        return made

    def forward(self, x: Tensor, then: Quantizer | None = None) -> Tensor:
        """Return x clipped, or as it is if `then`, the only reader, clips it."""
        if is_left(self, then) and not self._forward_hooks:
            return x
        clipped: Tensor = super().forward(x)
        return clipped


class ReLU(Clip, nn.ReLU):
    """ReLU."""


class ReLU6(Clip, nn.ReLU6):
    """ReLU6."""


class Hardtanh(Clip, nn.Hardtanh):
    """Hardtanh."""


CLIPS: dict[type[nn.Module], type[Clip]] = {nn.ReLU: ReLU, nn.ReLU6: ReLU6, nn.Hardtanh: Hardtanh}
