"""The quantizers: a file each, named here for configurations."""

from torch import Tensor

from qatc.errors import unknown
from qatc.quantizers.base import Quantizer
from qatc.quantizers.lsq import LSQ, WeightLSQ
from qatc.quantizers.minmax import MinMax, WeightMinMax
from qatc.quantizers.moving_average import MovingAverage
from qatc.spec import QuantSpec

ACTIVATION_QUANTIZERS: dict[str, type[Quantizer]] = {"minmax": MinMax, "moving_average": MovingAverage, "lsq": LSQ}
WEIGHT_QUANTIZERS: dict[str, type[Quantizer]] = {"minmax": WeightMinMax, "lsq": WeightLSQ}


def activation_quantizer(name: str, spec: QuantSpec) -> Quantizer:
    """Return a fresh activation quantizer of that name."""
    return _look_up(name, ACTIVATION_QUANTIZERS)(spec)


def weight_quantizer(name: str, spec: QuantSpec, weight: Tensor) -> Quantizer:
    """Return a fresh weight quantizer of that name for this weight (as it will be quantized: folded)."""
    kind = _look_up(name, WEIGHT_QUANTIZERS)
    return kind.of(spec, weight) if issubclass(kind, WeightLSQ) else kind(spec)


def _look_up(name: str, table: dict[str, type[Quantizer]]) -> type[Quantizer]:
    if name in table:
        return table[name]
    raise unknown("quantizer", name, table, "there are: {}")


__all__ = [
    "ACTIVATION_QUANTIZERS", "WEIGHT_QUANTIZERS", "LSQ", "MinMax", "MovingAverage", "Quantizer", "WeightLSQ",
    "WeightMinMax", "activation_quantizer", "weight_quantizer",
]  # fmt: skip
