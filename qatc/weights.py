"""The weights that quantizers start from."""

from typing import Any

from torch import Tensor, fx

from qatc import ir
from qatc.constants import value_of
from qatc.modules.fused import Fused


def weight_to_quantize(gm: fx.GraphModule, node: fx.Node, module: Fused, axis: int | None) -> Tensor:
    """Return the weight of a call: as it is where it gets a scale per channel, else with its BatchNorm folded in."""
    given = {name: value_of(gm, tensor) for name, tensor in ir.given_tensors(node).items()}
    bn: Any = None if axis is not None else ir.referenced_module(node.kwargs.get("bn"))
    return module.fold(bn, **given).weight
