"""What a layer computes with in eval mode: the codes of its weight, with their grid, and its bias."""

from typing import NamedTuple

from torch import Tensor

from qatc.modules.fused import Folded, Fused
from qatc.quantizers import Quantizer
from qatc.spec import QuantSpec


class Weights(NamedTuple):
    """A layer's weight as codes with their grid, its float bias, and the step of that bias's codes if it has a grid."""

    codes: Tensor
    scale: Tensor
    spec: QuantSpec
    bias: Tensor | None
    bias_step: Tensor | None


def weights_of(layer: Fused, folded: Folded, grid: Quantizer | None) -> Weights:
    """Return what the layer computes with in eval mode: the simulation's own weight codes and bias."""
    quantizer = layer.weight_quantizer
    assert quantizer is not None
    floor = layer.least_scale(folded.bias, grid)
    weight_grid = quantizer.checked_grid(folded.weight, folded.gain, floor)
    code = quantizer.codes_on(weight_grid, folded.weight, folded.gain)
    bias = None if folded.bias is None else folded.bias.detach()
    step = None if grid is None or bias is None else layer.bias_step(weight_grid, grid)
    return Weights(code, weight_grid.scale, quantizer.spec, bias, step)
