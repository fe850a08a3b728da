"""What the quantizers of weights share."""

from typing import ClassVar, Self

from torch import Tensor

from qatc.quantizers.base import Quantizer
from qatc.spec import QuantSpec


class WeightQuantizer(Quantizer):
    """A quantizer of one weight: all that it knows is the weight's, so there is nothing to record and to follow."""

    default_range: ClassVar[str] = "absmax"
    own_range: ClassVar[bool] = False  # whether it has a range of its own, which no estimator chooses

    @classmethod
    def of(cls, spec: QuantSpec, weight: Tensor, range_name: str | None = None) -> Self:
        """Return the quantizer of a weight, as it will be quantized: folded, or per channel unfolded."""
        made = cls(cls.stored(spec), range_name)
        made.begin(weight)
        return made

    @classmethod
    def stored(cls, spec: QuantSpec) -> QuantSpec:
        """Return the grid that codes of what was asked for lie on."""
        return spec

    def record(self, x: Tensor, site: int) -> None:
        """Do nothing: what it is set from is the weight."""

    def observe(self, x: Tensor, site: int) -> None:
        """Do nothing, likewise."""
