"""The values of the deployed layer with the gradient of the float one."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qatc.modules.bn_modes.call import LayerCall
from qatc.quantizers.fake_quantize import straight_through

if TYPE_CHECKING:
    from qatc.modules.fused import Fused


def straight_through_block(layer: "Fused", call: LayerCall) -> Tensor:
    """Return what the layer will deploy, running statistics folded in; its gradient is that of bn(conv(x, w)).

    The straight-through estimator over a whole block of TI's torchmodelopt v1 (PACT2): the backward pass goes through
    batch statistics, the values come from running ones, which take in this batch first. Learned steps of weights get no
    gradient. With the quantizers off it is convolution and BatchNorm.
    """
    x, bn, grid, weight, bias, output_size = call
    own = layer.own(weight, bias)
    y: Tensor = bn(layer.compute(x, own.weight, own.bias, output_size))
    if layer.weight_quantizer is None or not layer.weight_quantizer.enabled:
        return y
    with torch.no_grad():
        deployed = layer.compute(x, *layer.deployed(layer.fold(bn, weight, bias), grid), output_size)
    return straight_through(y, deployed.to(y.dtype))
