"""Cross-layer equalization: channels of neighbouring layers scaled so that their weights have like ranges."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from qatc import ir
from qatc.layers import Layer, channel_precision, input_ranges, output_ranges, over_inputs
from qatc.prepared import prepared_in
from qatc.ptq.chains import Chain, Link, chains_of
from qatc.ptq.restart import restart_activations, restart_weights

log = logging.getLogger("qatc")

# A sweep that scales no channel by more than this changes nothing that eight bits could show.
CONVERGED = 1e-3
MOST_SWEEPS = 50
# A channel this much narrower than its layer's widest is dead: scaling it up would only blow up its bias.
DEAD = 1e-6


@dataclass(frozen=True)
class EqualizedChain:
    """Layers that were scaled against one another, and how precise their channels were before and after.

    The precision of a channel is its range as a share of its tensor's. Given is the mean over the channels of their
    product over the layers, which equalization makes as great as it can be (arXiv:1906.04721, section 4.1).
    """

    layers: tuple[str, ...]
    before: float
    after: float

    def __str__(self) -> str:
        return f"{' -> '.join(self.layers)}: precision {self.before:.3g} -> {self.after:.3g}"


@dataclass(frozen=True)
class Equalization:
    """What `equalize` did: the chains, why other layers begin none, and the ReLU6 that became a ReLU."""

    chains: tuple[EqualizedChain, ...]
    skipped: dict[str, str]
    replaced: tuple[str, ...]
    sweeps: int

    def __str__(self) -> str:
        head = f"{len(self.chains)} chains equalized in {self.sweeps} sweeps"
        left = [f"{name}: left, {why}" for name, why in self.skipped.items()]
        clips = [f"{name}: ReLU6 became ReLU" for name in self.replaced]
        return "\n".join([head, *map(str, self.chains), *clips, *left])


@torch.no_grad()
def equalize(model: nn.Module, *, replace_relu6: bool = False) -> Equalization:
    """Scale the channels between layers so that their weights have like ranges; the float function stays.

    Of two layers with a ReLU (or what else is positively homogeneous) between, output channel i of the first is divided
    by s_i = sqrt(r1_i r2_i) / r2_i and input channel i of the second multiplied, r being the greatest magnitude of the
    channel's weights, BatchNorm folded in; through a depthwise convolution by the cube root of three ranges. Sweeps
    over all chains are repeated until no factor is off 1 by more than 0.001 (Nagel et al., arXiv:1906.04721, section
    4.1; the triples as in AIMET's cross_layer_equalization). Where there is a BatchNorm, its gamma and beta are scaled
    instead of the weight, so batch statistics, and training, go on as they were.

    It helps weights that have one scale in all; with a scale per channel only the second layer of each pair can gain.
    Call it before `calibrate` and before the optimizer is made: ranges recorded so far, and learned steps, of what was
    scaled are forgotten.

    Args:
        model: a prepared model; changed in place.
        replace_relu6: whether a ReLU6 in the way becomes a ReLU, as Nagel et al. and AIMET do. That changes the
            function wherever the network reached six; otherwise chains end there.

    Raises:
        ConfigError: the model is not prepared.

    """
    gm = prepared_in(model)
    chains, skipped = chains_of(gm, over_clips=replace_relu6)
    before = [_precision(chain) for chain in chains]
    replaced = tuple(name for chain in chains for link in chain.links for name in _replace_clips(gm, link))
    sweeps, farthest = 0, torch.inf
    while chains and farthest > CONVERGED and sweeps < MOST_SWEEPS:
        farthest = max(_equalize_chain(chain) for chain in chains)
        sweeps += 1
    for layer in {layer.node: layer for chain in chains for layer in chain.layers}.values():
        restart_weights(layer)
    restart_activations(gm, {node for chain in chains for link in chain.links for node in link.between})
    if replaced:
        gm.recompile()
    done = [
        EqualizedChain(tuple(layer.name for layer in chain.layers), old, _precision(chain))
        for chain, old in zip(chains, before, strict=True)
    ]
    result = Equalization(tuple(done), skipped, replaced, sweeps)
    log.info("equalize: %s", str(result).splitlines()[0])
    return result


def _equalize_chain(chain: Chain) -> float:
    """Scale the layers of one chain; return how far the farthest factor is from 1."""
    factors = scales([_ranges(chain, i) for i in range(len(chain.layers))])
    for link, factor in zip(chain.links, factors, strict=True):
        _divide_outputs(link.first, factor)
        weight = link.second.module.weight
        weight.mul_(over_inputs(link.second.module, factor.repeat_interleave(link.repeats)).to(weight.dtype))
    return max(float((factor - 1).abs().max()) for factor in factors)


def scales(ranges: Sequence[Tensor]) -> list[Tensor]:
    """Return the factor [channels] between each layer and the next, of the ranges [channels] of n layers in a row.

    The first layer's outputs are divided by s_1, the next one's inputs multiplied by it and its outputs divided by s_2:
    all ranges become the n-th root of their product. For two layers that is s = sqrt(r1 r2) / r2 (arXiv:1906.04721,
    equation 11). A channel that is dead in any layer is left.
    """
    stacked = torch.stack([r.double() for r in ranges])
    dead = (stacked <= DEAD * stacked.amax(1, keepdim=True)).any(0)
    logs = stacked.masked_fill(dead, 1.0).log()
    common = logs.mean(0)
    # r_k * s_(k-1) / s_k = common, so the logarithm of s_k is the sum of what the layers up to k are above it.
    return list((logs - common).cumsum(0)[:-1].exp().masked_fill(dead, 1.0))


def _ranges(chain: Chain, number: int) -> Tensor:
    """Return the range of each of the chain's channels in one of its layers."""
    layer = chain.layers[number]
    weight = layer.folded().weight.float()
    if number < len(chain.links):
        return output_ranges(layer.module, weight)
    repeats = chain.links[-1].repeats
    return input_ranges(layer.module, weight).view(-1, repeats).amax(1)


def _divide_outputs(layer: Layer, factor: Tensor) -> None:
    """Make the layer's result, BatchNorm included, smaller by a factor per channel."""
    module, bn = layer.module, layer.bn
    if bn is not None:
        bn.weight.div_(factor.to(bn.weight.dtype))
    else:
        module.weight.div_(module.over_weight(factor, module.weight).to(module.weight.dtype))
    bias = module.bias if bn is None else bn.bias
    if bias is not None:
        bias.div_(factor.to(bias.dtype))


def _precision(chain: Chain) -> float:
    of_layers = [channel_precision(_ranges(chain, i)) for i in range(len(chain.layers))]
    return float(torch.stack(of_layers).prod(0).mean())


def _replace_clips(gm: fx.GraphModule, link: Link) -> list[str]:
    """Make the link's ReLU6 a ReLU, and lift the bound of the grids behind it."""
    for node in link.clips:
        module = gm.get_submodule(str(node.target))
        if node is link.first.node:
            link.first.module.activation = nn.ReLU()
        else:
            ir.set_module(gm, str(node.target), nn.ReLU().train(module.training))
    if link.clips:
        restart_activations(gm, set(link.between), bounded=False)
    return [str(node.target) for node in link.clips]
