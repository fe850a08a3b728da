"""Batch statistics by a convolution of the float weight, and the output by one of the quantized folded weight."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qatc.grid import per_channel
from qatc.modules.bn_modes.call import LayerCall

if TYPE_CHECKING:
    from qatc.modules.fused import Fused


def two_convolutions(layer: "Fused", call: LayerCall) -> Tensor:
    """Return conv(x, q(w gamma / sigma_R)) sigma_R / sigma_B + beta - gamma (mu_B - bias) / sigma_B.

    mu_B and sigma_B are of the float convolution of this batch, sigma_R the running one of before it: the weight is
    quantized on the scale that it deploys with, the correction sigma_R / sigma_B makes the output that of the batch
    (Krishnamoorthi, arXiv:1806.08342, section 3.2.2; MindSpore's Conv2dBnFoldQuant). Gradients reach the weight through
    the statistics too. Without quantization this is convolution and BatchNorm. Statistics are of one process.
    """
    x, bn, _, weight, bias, output_size = call
    own = layer.own(weight, bias)
    folded = layer.fold(bn, weight, bias)
    assert bn.running_var is not None
    sigma = torch.sqrt(bn.running_var.float() + bn.eps)
    plain = layer.compute(x, own.weight, own.bias, output_size)
    with torch.no_grad():
        bn(plain)  # for its running statistics alone
    dims = [d for d in range(plain.dim()) if d != 1]
    wide = plain if plain.dtype == torch.float64 else plain.float()
    variance, mean = torch.var_mean(wide, dims, correction=0)
    batch_sigma = torch.sqrt(variance + bn.eps)
    quantizer = layer.weight_quantizer
    enabled = quantizer is not None and quantizer.enabled
    quantized = quantizer(folded.weight, gain=folded.gain) if enabled and quantizer is not None else folded.weight
    y = layer.compute(x, quantized, None, output_size)
    shift = -(mean if own.bias is None else mean - own.bias) / batch_sigma
    shift = shift if bn.weight is None else shift * bn.weight
    shift = shift if bn.bias is None else shift + bn.bias
    return (y * per_channel(sigma / batch_sigma, y, 1) + per_channel(shift, y, 1)).to(plain.dtype)
