"""The quantizers: a file each, named here for configurations."""

from typing import Any

from torch import Tensor

from qatc.errors import ConfigError, unknown
from qatc.quantizers.base import Quantizer, representable
from qatc.quantizers.few_bits import Binary, Ternary
from qatc.quantizers.given import Given
from qatc.quantizers.learned_range import LearnedRange, WeightLearnedRange
from qatc.quantizers.lsq import LSQ, WeightLSQ
from qatc.quantizers.lsq_plus import LSQPlus, WeightLSQPlus
from qatc.quantizers.pact import CGPact, Pact
from qatc.quantizers.ranged import Fixed, Tracked, WeightFixed, WeightTracked
from qatc.quantizers.sat import WeightSAT, WeightSATAsymmetric, WeightSATDefault, WeightSATFullRange
from qatc.quantizers.weight import WeightQuantizer
from qatc.spec import QuantSpec

ACTIVATION_QUANTIZERS: dict[str, type[Quantizer]] = {
    "tracked": Tracked, "fixed": Fixed, "lsq": LSQ, "lsq_plus": LSQPlus, "learned_range": LearnedRange, "pact": Pact,
    "cg_pact": CGPact,
}  # fmt: skip
# Each is made for a weight: `of(spec, weight, range_name)`.
WEIGHT_QUANTIZERS: dict[str, Any] = {
    "tracked": WeightTracked, "fixed": WeightFixed, "lsq": WeightLSQ, "lsq_plus": WeightLSQPlus,
    "learned_range": WeightLearnedRange, "sat": WeightSAT, "sat_asymmetric": WeightSATAsymmetric,
    "sat_default": WeightSATDefault, "sat_full_range": WeightSATFullRange, "ternary": Ternary, "binary": Binary,
}  # fmt: skip


def activation_quantizer(name: str, spec: QuantSpec, range_name: str | None = None) -> Quantizer:
    """Return a fresh activation quantizer of that name, whose range is estimated as named (or as it does by itself).

    Raises:
        ConfigError: a name is unknown, the two do not go together, or the quantizer is for other widths.

    """
    return _look_up(name, ACTIVATION_QUANTIZERS, spec)(spec, range_name)  # type: ignore[no-any-return]


def weight_quantizer(name: str, spec: QuantSpec, weight: Tensor, range_name: str | None = None) -> Quantizer:
    """Return a fresh weight quantizer of that name for this weight (as it will be quantized: folded).

    Raises:
        ConfigError: a name is unknown, the two do not go together, or the quantizer is for other widths.

    """
    kind = _look_up(name, WEIGHT_QUANTIZERS, spec)
    if range_name is not None and issubclass(kind, WeightQuantizer) and kind.own_range:
        raise ConfigError(f"the quantizer {name!r} has a range of its own", remedy="leave weight_range out")
    return kind.of(spec, weight, range_name)  # type: ignore[no-any-return]


def _look_up(name: str, table: dict[str, Any], spec: QuantSpec) -> Any:
    if name not in table:
        raise unknown("quantizer", name, table, "there are: {}")
    if spec.bits not in table[name].widths:
        able = ", ".join(repr(other) for other, kind in table.items() if spec.bits in kind.widths)
        raise ConfigError(
            f"the quantizer {name!r} is not for {spec.bits} bit{'s' * (spec.bits > 1)}",
            remedy=f"take {able}" if able else "ask for 2 bits or more",
        )
    return table[name]


__all__ = [
    "ACTIVATION_QUANTIZERS", "WEIGHT_QUANTIZERS", "LSQ", "Binary", "CGPact", "Fixed", "Given", "LSQPlus",
    "LearnedRange", "Pact", "Quantizer", "Ternary", "Tracked", "WeightFixed", "WeightLSQ", "WeightLSQPlus",
    "WeightLearnedRange", "WeightQuantizer", "WeightSAT", "WeightSATAsymmetric", "WeightSATDefault",
    "WeightSATFullRange", "WeightTracked", "activation_quantizer", "representable",
    "weight_quantizer",
]  # fmt: skip
