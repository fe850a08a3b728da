"""What a suite says of a model: how it is built, and what it is shown."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A tuple of positional arguments, or a dict of keyword arguments.
Inputs = tuple[Any, ...] | dict[str, Any]
# From a batch size and a generator.
MakeInputs = Callable[[int, torch.Generator], Inputs]


@dataclass(frozen=True)
class Entry:
    """One model of a suite.

    `float_leaves` is how many of its submodules no graph can hold; more than that fails. Where such a leaf decides on
    values there is no ONNX form, and `until` names the last stage that is asked for.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: MakeInputs
    float_leaves: int = 0
    until: str = ""


def given(inputs: MakeInputs, batch: int, seed: int) -> Inputs:
    """Return seeded inputs of that batch size."""
    return inputs(batch, torch.Generator().manual_seed(seed))


def image(*shape: int) -> MakeInputs:
    """Return what makes one image [N, C, H, W]."""
    return lambda batch, generator: (smooth((batch, *shape), generator),)


def clip(channels: int, frames: int, size: int) -> MakeInputs:
    """Return what makes one video clip [N, C, T, H, W]."""

    def make(batch: int, generator: torch.Generator) -> Inputs:
        stills = smooth((batch * frames, channels, size, size), generator)
        return (stills.unflatten(0, (batch, frames)).transpose(1, 2).contiguous(),)

    return make


def noise(*shape: int) -> MakeInputs:
    """Return what makes one tensor [N, *shape] of standard normal values."""
    return lambda batch, generator: (torch.randn((batch, *shape), generator=generator),)


def smooth(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return images [N, C, H, W]: noise over something smooth, about zero mean and unit variance."""
    coarse = F.interpolate(torch.randn((*shape[:2], 8, 8), generator=generator), shape[2:], mode="bilinear")
    return 0.5 * torch.randn(shape, generator=generator) + 0.85 * coarse / coarse.std()


def tokens(vocabulary: int, length: int, batch: int, generator: torch.Generator, first: int = 3) -> Tensor:
    """Return token ids [N, length] from `first` on, which leaves the special ones out."""
    return torch.randint(first, vocabulary, (batch, length), generator=generator)


def padding(length: int, batch: int, generator: torch.Generator, left: bool = False) -> Tensor:
    """Return an attention mask [N, length] of ones and zeros: rows of different lengths, padded at one end."""
    lengths = torch.randint(length // 2, length, (batch, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    return mask.flip(1) if left else mask
