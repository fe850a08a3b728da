"""What is found of one tensor: how alike it is to what it should be, and how it uses its grid."""

import math
from dataclasses import dataclass

from qatc.view.measured import Histogram


def finite(value: float) -> float | None:
    """Return the number, or None if it is none that JSON has."""
    return value if math.isfinite(value) else None


def decibel(power: float, error: float) -> float:
    """Return 10 log10(power / error): infinite without an error, -infinite of an error without a signal."""
    if math.isnan(power) or math.isnan(error):
        return math.nan
    if error == 0:
        return math.inf
    return 10 * math.log10(power / error) if power else -math.inf


@dataclass(frozen=True)
class Agreement:
    """How alike two tensors are over all data: the power of one, that of their difference, their cosine similarity."""

    power: float
    error: float
    cosine: float

    @property
    def sqnr(self) -> float:
        """The signal-to-quantization-noise ratio in dB."""
        return decibel(self.power, self.error)

    @property
    def noise(self) -> float:
        """The error's power as a share of the signal's."""
        return self.error / self.power if self.power else math.inf if self.error else 0.0


@dataclass(frozen=True)
class Usage:
    """How a tensor uses its grid: both ranges, the share of its values that are clipped and of the codes it has."""

    data: tuple[float, float]
    grid: tuple[float, float]
    clipped: float
    codes_used: float
    histogram: Histogram | None


@dataclass(frozen=True)
class FileCodes:
    """The codes of a tensor in an ONNX file against the simulation's: how many, how many differ, by how many steps.

    Per op the file's op is fed with the simulation's codes; end to end the file runs as it is.
    """

    codes: int
    differing: int
    step: int
    differing_end_to_end: int
    step_end_to_end: int
