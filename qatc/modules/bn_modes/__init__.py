"""How a layer and its BatchNorm train while the BatchNorm uses batch statistics: a file each, by name."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from qatc.modules.bn_modes.call import LayerCall
from qatc.modules.bn_modes.one_convolution import one_convolution
from qatc.modules.bn_modes.straight_through import straight_through_block
from qatc.modules.bn_modes.two_convolutions import two_convolutions

# Each takes the layer and what it is called with, and returns what the activation reads.
BN_MODES: dict[str, Callable[[Any, LayerCall], Tensor]] = {
    "batch": one_convolution,
    "two-convolutions": two_convolutions,
    "straight-through": straight_through_block,
}
DEFAULT = "batch"


def train(mode: str, layer: Any, call: LayerCall) -> Tensor:
    """Return the layer's normalized output in this mode."""
    return BN_MODES[mode](layer, call)
