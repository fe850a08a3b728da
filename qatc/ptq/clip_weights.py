"""Weights far beyond all others, which would take a tensor's whole range for themselves, clipped."""

import logging
from dataclasses import dataclass

import torch
from torch import nn

from qatc.grid import power_of_two
from qatc.layers import Layer, layers_of, shared_tensors
from qatc.prepared import prepared_in
from qatc.ptq.restart import restart_weights

log = logging.getLogger("qatc")

# PACT2's weight rule in TI's edgeai-torchmodelopt v1: a weight counts as an outlier only in a tensor that reaches
# beyond 15, if it is more than 16 times the median magnitude; the limit leaves an eighth of the codes as headroom.
MAGNITUDE = 15.0
RATIO = 16.0
HEADROOM = 120 / 128


@dataclass(frozen=True)
class ClippedWeights:
    """A layer some of whose weights were clipped: how many, from which magnitude on, and how far they reached."""

    layer: str
    count: int
    limit: float
    reached: float

    def __str__(self) -> str:
        return f"{self.layer}: {self.count} weights of up to {self.reached:.4g} clipped at {self.limit:.4g}"


@torch.no_grad()
def clip_weights(model: nn.Module, *, magnitude: float = MAGNITUDE, ratio: float = RATIO) -> tuple[ClippedWeights, ...]:
    """Clip weights that are outliers, BatchNorm folded in; return what was clipped, in graph order.

    Where max|w| > magnitude and max|w| > ratio * median|w|, weights are clipped to 120 / 128 of the power of two next
    above ratio * median|w| (PACT2, TI edgeai-torchmodelopt v1, whose stored weights are quantized too; here they stay
    float). What is clipped changes the float function: train on afterwards. Weights that several layers share are left.

    Args:
        model: a prepared model; changed in place. Learned steps of weights that changed begin anew.
        magnitude: the magnitude that a folded weight must reach before any are clipped; TI's is 15.
        ratio: how many times the median magnitude is still no outlier; TI's is 16.

    Raises:
        ConfigError: the model is not prepared.

    """
    gm = prepared_in(model)
    shared = shared_tensors(gm)
    own = [layer for layer in layers_of(gm) if id(layer.module.weight) not in shared]
    found = tuple(clipped for layer in own if (clipped := _clip(layer, magnitude, ratio)) is not None)
    for clipped in found:
        log.info("clip_weights: %s", clipped)
    return found


def _clip(layer: Layer, magnitude: float, ratio: float) -> ClippedWeights | None:
    folded = layer.folded()
    size = folded.weight.float().abs()
    reached, usual = size.max(), size.median()
    if not (reached > magnitude and reached > ratio * usual):
        return None
    limit = power_of_two(ratio * usual, "up") * HEADROOM
    beyond = size > limit
    kept = (limit / size).masked_fill_(~beyond, 1.0)
    layer.module.weight.mul_(kept.to(layer.module.weight.dtype))
    restart_weights(layer)
    return ClippedWeights(layer.name, int(beyond.sum()), float(limit), float(reached))
