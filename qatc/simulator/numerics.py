"""How a runtime rounds: what may differ between two that add the same integers."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qatc.errors import SimulationError

Array = NDArray[Any]


@dataclass(frozen=True)
class Numerics:
    """From sums of products to codes.

    `rounding`: of a half, to the even code as ONNX asks, or up, as `(x + half) >> n` does. `requantize`: a product in
    float32 with `scale_x * scale_w / scale_y`, as ONNX Runtime computes it, or a shift of the integer, which needs that
    factor to be a power of two.
    """

    rounding: Literal["half_even", "half_up"] = "half_even"
    requantize: Literal["float32", "shift"] = "float32"

    def rounded(self, values: Array) -> Array:
        """Return whole numbers, in the type of the values."""
        whole: Array = np.rint(values) if self.rounding == "half_even" else np.floor(values + values.dtype.type(0.5))
        return whole

    def requantized(self, sums: Array, factor: Array) -> Array:
        """Return integer sums times a float32 factor, rounded.

        Raises:
            SimulationError: `requantize` is "shift", and a factor is not a power of two.

        """
        if self.requantize == "float32":
            return self.rounded(sums.astype(np.float32) * factor)
        if np.any(np.frexp(factor)[0] != 0.5):
            raise SimulationError(
                "a scale is not a power of two, so no shift requantizes it",
                remedy="prepare with a configuration of power-of-two scales, or simulate with requantize='float32'",
            )
        return self.rounded(sums * factor.astype(np.float64))  # exact: of 53 bits


NUMERICS = Numerics()
