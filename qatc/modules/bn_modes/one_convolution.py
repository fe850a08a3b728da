"""Batch statistics by one convolution, of the quantized weight with its folding undone."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from qatc.modules.batch_norms import BatchNorm
from qatc.quantizers.base import Quantizer

if TYPE_CHECKING:
    from qatc.modules.fused import Fused


def one_convolution(
    layer: "Fused",
    x: Tensor,
    bn: BatchNorm,
    grid: Quantizer | None,
    weight: Tensor | None,
    bias: Tensor | None,
    output_size: Any,
) -> Tensor:
    """Return bn(conv(x, q(w f) / f)), f = gamma / sigma of the running variance (docs/decisions/weights-unfold.md)."""
    y: Tensor = bn(layer.compute(x, layer.unfolded_weight(bn, weight, bias), layer.own(weight, bias).bias, output_size))
    return y
