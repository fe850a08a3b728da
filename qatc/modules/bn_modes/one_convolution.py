"""Batch statistics by one convolution, of the quantized weight with its folding undone."""

from typing import TYPE_CHECKING

from torch import Tensor

from qatc.modules.bn_modes.call import LayerCall

if TYPE_CHECKING:
    from qatc.modules.fused import Fused


def one_convolution(layer: "Fused", call: LayerCall) -> Tensor:
    """Return bn(conv(x, q(w f) / f)), f = gamma / sigma of the running variance (docs/decisions/weights-unfold.md)."""
    weight, bias = layer.unfolded_weight(call.bn, call.weight, call.bias), layer.own(call.weight, call.bias).bias
    y: Tensor = call.bn(layer.compute(call.x, weight, bias, call.output_size))
    return y
