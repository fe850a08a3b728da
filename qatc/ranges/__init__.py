"""The range estimators: how what a tensor holds becomes the range that its grid covers; named for configurations."""

from qatc.errors import ConfigError, unknown
from qatc.ranges.base import Range, RangeEstimator
from qatc.ranges.divergence import KL
from qatc.ranges.extremes import AbsMax, MinMax, MovingAverage
from qatc.ranges.histogram import Histogram
from qatc.ranges.least_error import MSE, SQNR
from qatc.ranges.magnitude import MeanMagnitude
from qatc.ranges.percentile import Percentile
from qatc.ranges.three_sigma import ThreeSigma
from qatc.ranges.trimmed import TrimmedAverage
from qatc.spec import QuantSpec

RANGE_ESTIMATORS: dict[str, type[RangeEstimator]] = {
    "minmax": MinMax, "absmax": AbsMax, "moving_average": MovingAverage, "percentile": Percentile, "mse": MSE,
    "sqnr": SQNR, "kl": KL, "mean_magnitude": MeanMagnitude, "three_sigma": ThreeSigma,
    "trimmed_average": TrimmedAverage,
}  # fmt: skip


def range_estimator(name: str, spec: QuantSpec, channels: int = 1) -> RangeEstimator:
    """Return a fresh estimator: `mse`, or with its one number, `percentile:99.9`, `moving_average:0.1`.

    Raises:
        ConfigError: an unknown name, a number where none is taken, or one that is none.

    """
    kind, colon, number = name.partition(":")
    if kind not in RANGE_ESTIMATORS:
        raise unknown("range estimator", kind, RANGE_ESTIMATORS, "there are: {}")
    estimator = RANGE_ESTIMATORS[kind]
    if not colon:
        return estimator(spec, channels)
    if estimator.option is None:
        takers = ", ".join(n for n, e in RANGE_ESTIMATORS.items() if e.option)
        raise ConfigError(f"range estimator {kind!r} takes no number", remedy=f"these do: {takers}")
    try:
        return estimator(spec, channels, **{estimator.option: float(number)})
    except ValueError as error:
        raise ConfigError(f"range estimator {name!r}: {error}", remedy=f"write {kind}:<number>") from error


__all__ = [
    "KL", "MSE", "RANGE_ESTIMATORS", "SQNR", "AbsMax", "Histogram", "MeanMagnitude", "MinMax", "MovingAverage",
    "Percentile", "Range", "RangeEstimator", "ThreeSigma", "TrimmedAverage",
    "range_estimator",
]  # fmt: skip
