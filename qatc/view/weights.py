"""What the weights of a model look like on their grids."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, fx

from qatc import ir
from qatc.grid import Grid, per_channel
from qatc.lowering.lower_modules import folded_of, grid_of
from qatc.modules.fused import Fused
from qatc.spec import QuantSpec
from qatc.view.measured import Histogram, Measured

_MOST_BINS = 512


@torch.no_grad()
def weights_on_grids(gm: fx.GraphModule) -> Iterator[tuple[str, Measured]]:
    """Yield the node's name and the weight of each layer that has a grid for it, as it will be lowered: folded."""
    for node, layer in ir.module_calls(gm):
        quantizer = layer.weight_quantizer if isinstance(layer, Fused) else None
        if not isinstance(layer, Fused) or quantizer is None or not quantizer.ready:
            continue
        folded = folded_of(node, layer)
        if bool(torch.isfinite(folded.weight).all()):
            grid = quantizer.checked_grid(folded.weight, folded.gain, layer.least_scale(folded.bias, grid_of(node)))
            yield node.name, on_grid(quantizer.values(folded.weight, grid, folded.gain), grid, quantizer.spec)


def on_grid(values: Tensor, grid: Grid, spec: QuantSpec) -> Measured:
    """Return the histogram of values in units of codes, so that channels with steps of their own share one axis.

    A bin is as wide as a code, or wider where there would be too many; the ends are those of the values and the grid.
    """
    scale, zero_point = (per_channel(v, values, spec.axis) for v in grid)
    codes = values.float() / scale + zero_point
    low = min(math.floor(float(codes.min()) + 0.5), spec.qmin) - 0.5
    high = max(math.ceil(float(codes.max()) - 0.5), spec.qmax) + 0.5
    counts = torch.histc(codes, min(int(high - low), _MOST_BINS), low, high)
    rounded = torch.round(codes)
    inside = (rounded >= spec.qmin) & (rounded <= spec.qmax)
    used = int(rounded[inside].unique().numel())
    return Measured(
        Histogram(low, high, tuple(map(int, counts)), "codes", 1.0, 0.0, (spec.qmin, spec.qmax)),
        {
            "weight codes used, %": 100 * used / (spec.qmax - spec.qmin + 1),
            "weights not clipped, %": 100 * float(inside.double().mean()),
        },
    )
