"""Weights that their grids do not suit: channels far from one another, one-sided, or far beyond their bulk."""

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from qatc import ir
from qatc.diagnosis.finding import Finding
from qatc.layers import Layer, layers_of, output_ranges
from qatc.modules.kinds import op_kind
from qatc.spec import QuantSpec

# Each halving of a channel's range on a grid that it shares costs it one bit (Nagel et al., arXiv:1906.04721, section
# 3.1 and figure 2): it is a finding where it has lost half of its bits.
LOST_BITS = 0.5
# A grid around zero is used by a share of its codes; less than this costs three quarters of a bit, of few.
USED_SHARE = 0.6
# Widths at which three quarters of a bit, or a layer's scale without a BatchNorm, are known to cost accuracy: W4 and
# below (Jin et al., arXiv:1912.10207, section 3.2, scales such layers' weights for it).
LOW_BITS = 4
# The ratio of the greatest magnitude to the root mean square; each doubling costs one bit (6.02 dB). The greatest of a
# million normal values is at 5, so 32 has cost more than two and a half bits.
OUTLIER_CREST = 32.0


def weight_findings(gm: fx.GraphModule) -> Iterator[Finding]:
    """Yield what is wrong with each layer's folded weight, on the grid that it has."""
    for layer in layers_of(gm):
        quantizer = layer.module.weight_quantizer
        if quantizer is None:
            continue
        weight = layer.folded().weight.detach().float()
        if quantizer.spec.axis is None:
            yield from _skewed(gm, layer, weight, quantizer.spec)
        yield from _outlying(layer, weight, quantizer.spec)
        if quantizer.spec.bits <= LOW_BITS:
            yield from _one_sided(layer, weight, quantizer.spec)
            yield from _without_batch_norm(layer, quantizer.spec)


def _skewed(gm: fx.GraphModule, layer: Layer, weight: Tensor, spec: QuantSpec) -> Iterator[Finding]:
    ranges = output_ranges(layer.module, weight)
    live = ranges[ranges > 0]
    if not live.numel():
        return
    narrow = int((live < live.max() * 2.0 ** (-LOST_BITS * spec.bits)).sum())
    if narrow:
        ratio = float(live.max() / live.min())
        figure = (
            f"the widest channel reaches {ratio:.0f} times as far as the narrowest, {narrow} of {len(ranges)} have "
        )
        yield _finding(
            "skewed weights", layer, f"{figure}at most {spec.bits / 2:g} of {spec.bits} bits", _mend(gm, layer)
        )


def _mend(gm: fx.GraphModule, layer: Layer) -> str:
    prepared_for = getattr(gm, "prepared_for", None)
    has_axis = layer.module.weight_axis is not None
    if prepared_for is not None and has_axis and op_kind(layer.module) in prepared_for.target.weight.per_channel:
        return f"a scale per channel: qatc.Rule({layer.name!r}, per_channel=True); or qatc.equalize(model)"
    return "qatc.equalize(model), before qatc.calibrate"


def _outlying(layer: Layer, weight: Tensor, spec: QuantSpec) -> Iterator[Finding]:
    crest = float(crests(weight, spec.axis).max())
    if crest > OUTLIER_CREST:
        figure = f"the greatest weight of a grid is {crest:.0f} times its root mean square"
        remedy = "qatc.clip_weights(model, magnitude=0.0), then train"
        yield _finding("outlying weights", layer, figure, remedy)


def crests(values: Tensor, axis: int | None) -> Tensor:
    """Return the greatest magnitude as a multiple of the root mean square, of each grid; 0 where all is zero."""
    rows = values.reshape(1, -1) if axis is None else values.movedim(axis, 0).flatten(1)
    root = rows.square().mean(1).sqrt()
    return rows.abs().amax(1) / root.masked_fill(root == 0, torch.inf)


def _one_sided(layer: Layer, weight: Tensor, spec: QuantSpec) -> Iterator[Finding]:
    rows = weight.reshape(1, -1) if spec.axis is None else weight.movedim(spec.axis, 0).flatten(1)
    low, high = rows.amin(1).clamp(max=0.0), rows.amax(1).clamp(min=0.0)
    reach = torch.maximum(-low, high)
    used = float(((high - low) / (2 * reach.clamp(min=torch.finfo(reach.dtype).tiny))).mean())
    if used < USED_SHARE and spec.symmetric:
        figure = f"lying to one side of zero, they use {used:.0%} of their {spec.bits}-bit grid"
        remedy = f"more bits: qatc.Rule({layer.name!r}, weight_bits={min(8, 2 * spec.bits)})"
        yield _finding("one-sided weights", layer, figure, remedy)


def _without_batch_norm(layer: Layer, spec: QuantSpec) -> Iterator[Finding]:
    if layer.bn is None:
        figure = f"{spec.bits}-bit weights, and no BatchNorm that takes up the scale that they lose"
        remedy = f"qatc.Rule({layer.name!r}, weight_bits=8)"
        yield _finding("no BatchNorm at low bits", layer, figure, remedy)


def _finding(kind: str, layer: Layer, figure: str, remedy: str) -> Finding:
    return Finding(kind, layer.name, ir.source_of(layer.node).location, figure, remedy)
