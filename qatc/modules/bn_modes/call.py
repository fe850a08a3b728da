"""What a layer is called with while its BatchNorm uses batch statistics."""

from typing import Any, NamedTuple

from torch import Tensor

from qatc.modules.batch_norms import BatchNorm
from qatc.quantizers.base import Quantizer


class LayerCall(NamedTuple):
    """The layer's input, its BatchNorm, the input's grid, weight and bias if they are given, and an output size.

    The size is what a transposed convolution is asked for.
    """

    x: Tensor
    bn: BatchNorm
    grid: Quantizer | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    output_size: Any = None
