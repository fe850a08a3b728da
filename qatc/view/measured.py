"""What was measured of tensors, for the page to plot: of weights from a checkpoint, of activations by whoever ran them.

A dump folder may hold it as `measured.json`: an object whose keys are node names, whose values are

    {"histogram": {"low": -3.5, "high": 3.5, "counts": [1, 5, 9, 7, 4, 2, 0],     bins of one width from low to high
                   "unit": "codes", "step": 1, "origin": 0, "clip": [-3, 3]},     the grid, and where values are clipped
     "figures": {"SQNR, dB": 31.2},                                              the least value is the worst
     "curves": {"scale": [[0, 0.02], [100, 0.03]]}}                              [x, y] points

Each part may be left out, and of the histogram all behind `counts`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins of one width from `low` to `high`, in `unit`.

    The grid that values are rounded to has points at `origin + k * step` (no grid where step is 0); they are clipped to
    `clip`. A `ValueError` if the numbers are none.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    unit: str = ""
    step: float = 0.0
    origin: float = 0.0
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _numbers(self.low, self.high, self.step, self.origin, *self.counts, *(self.clip or ()))
        if not self.counts or self.low >= self.high or min(self.counts) < 0 or self.step < 0:
            raise ValueError("a histogram needs bins, from a lower value to a higher one, and counts of zero or more")
        if self.clip is not None and len(self.clip) != 2:
            raise ValueError("values are clipped to two ends")


@dataclass(frozen=True)
class Measured:
    """What is known of one tensor; `figures` by name, less being worse; `curves` by name, as [x, y] points."""

    histogram: Histogram | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _numbers(*self.figures.values())
        _numbers(*(value for points in self.curves.values() for point in points for value in point))


def measured_from(data: Any) -> dict[str, Measured]:
    """Return what `measured.json` holds; a `ValueError`, `TypeError` or `KeyError` if it is something else."""
    return {str(name): _measured(value) for name, value in dict(data).items()}


def _measured(data: dict[str, Any]) -> Measured:
    histogram = data.get("histogram")
    if histogram is not None:
        clip = histogram.get("clip")
        parts = {**histogram, "counts": tuple(histogram["counts"]), "clip": None if clip is None else tuple(clip)}
        histogram = Histogram(**{**parts, "unit": str(histogram.get("unit", ""))})
    curves = {str(name): tuple((x, y) for x, y in points) for name, points in data.get("curves", {}).items() if points}
    return Measured(histogram, {str(name): value for name, value in data.get("figures", {}).items()}, curves)


def measured_data(measured: Mapping[str, Measured]) -> dict[str, Any]:
    """Return it as the plain data of `measured.json`."""
    return {name: {key: part for key, part in asdict(of).items() if part} for name, of in measured.items()}


def measured_json(measured: Mapping[str, Measured]) -> str:
    """Return the text of `measured.json`."""
    return json.dumps(measured_data(measured), separators=(",", ":"), allow_nan=False)


def _numbers(*values: Any) -> None:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{value!r} is no finite number")
