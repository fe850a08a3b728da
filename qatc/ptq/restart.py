"""Quantizers begun anew, where what they were set from has changed."""

import copy
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import fx

from qatc import ir
from qatc.layers import Layer
from qatc.quantizers import Quantizer


def restart_weights(layer: Layer) -> None:
    """Give the layer a fresh weight quantizer of the same kind, its learned state set from the weight as it is."""
    old = layer.module.weight_quantizer
    if old is None:
        return
    fresh = copy.deepcopy(old)
    fresh.begin(layer.to_quantize())
    layer.module.weight_quantizer = fresh


def restart_activations(gm: fx.GraphModule, nodes: Iterable[fx.Node], *, bounded: bool = True) -> None:
    """Put a fresh quantizer in the place of each that these nodes call; `bounded=False` lifts the bound of a clip."""
    for path in sorted({str(node.target) for node in nodes if ir.module_of(node, Quantizer) is not None}):
        old = gm.get_submodule(path)
        assert isinstance(old, Quantizer)
        covering = "up" if old.spec.pow2 == "down" else old.spec.pow2  # down only for the bound's sake
        spec = old.spec if bounded else replace(old.spec, upper=None, pow2=covering)
        device = next((t.device for t in (*old.parameters(), *old.buffers())), torch.device("cpu"))
        ir.set_module(gm, path, _as_before(old.with_spec(spec), old).to(device))


def _as_before(fresh: Quantizer, old: Quantizer) -> Quantizer:
    fresh.enabled, fresh.observing, fresh.overwrites = old.enabled, old.observing, old.overwrites
    return fresh.train(old.training)
