"""The range estimators: how what a tensor holds becomes the range that its grid covers; named for configurations."""

from qatc.ranges.base import Range, RangeEstimator
from qatc.ranges.divergence import KL
from qatc.ranges.extremes import AbsMax, MinMax, MovingAverage
from qatc.ranges.histogram import Histogram
from qatc.ranges.least_error import MSE, SQNR
from qatc.ranges.percentile import Percentile

RANGE_ESTIMATORS: dict[str, type[RangeEstimator]] = {
    "minmax": MinMax, "absmax": AbsMax, "moving_average": MovingAverage, "percentile": Percentile, "mse": MSE,
    "sqnr": SQNR, "kl": KL,
}  # fmt: skip

__all__ = [
    "KL", "MSE", "RANGE_ESTIMATORS", "SQNR", "AbsMax", "Histogram", "MinMax", "MovingAverage", "Percentile", "Range",
    "RangeEstimator",
]  # fmt: skip
