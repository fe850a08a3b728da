"""classics: small hand-written networks, one hazard each."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tools.zoo_suites import classics_images as images
from tools.zoo_suites import classics_python as python
from tools.zoo_suites import classics_sequences as sequences
from tools.zoo_suites import classics_signals as signals
from tools.zoo_suites import classics_structures as structures
from tools.zoo_suites import classics_weights as weights
from tools.zoo_suites.entry import Entry, Inputs, MakeInputs, clip, image, noise, padding, smooth, tokens

_PHOTO = image(3, 32, 32)


def entries() -> list[Entry]:
    """Return the suite."""
    return [Entry(_spelled(build), build, inputs) for build, inputs in _NETWORKS.items()] + [
        # The leaf decides on values, so no ONNX file can hold it.
        Entry("data-dependent-part", python.DataDependentPart, _PHOTO, float_leaves=1, until="save"),
        Entry("root-conv", lambda: nn.Conv2d(3, 8, 3, padding=1), _PHOTO),
        Entry("root-linear", lambda: nn.Linear(16, 4), noise(16)),
        Entry("root-sequential", _sequential, _PHOTO),
        Entry("root-sequential-slice", lambda: _sequential()[:3], _PHOTO),
    ]


def _spelled(build: Callable[[], nn.Module]) -> str:
    name = build.__name__
    return "".join(f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


def _sequential() -> nn.Sequential:
    return nn.Sequential(images.conv_bn_relu(3, 8, 2), nn.Conv2d(8, 8, 1), nn.ReLU6(), nn.Flatten(), nn.Linear(2048, 4))


def _dict(batch: int, generator: torch.Generator) -> Inputs:
    return ({"image": smooth((batch, 3, 32, 32), generator), "numbers": torch.randn(batch, 4, generator=generator)},)


def _photos(count: int, wrap: Callable[..., Inputs] = lambda *found: found) -> MakeInputs:
    return lambda batch, generator: wrap(*(smooth((batch, 3, 32, 32), generator) for _ in range(count)))


def _nested(batch: int, generator: torch.Generator) -> Inputs:
    x, y, z = (smooth((batch, 4, 16, 16), generator) for _ in range(3))
    return x, (y, [z])


def _ids(vocabulary: int) -> MakeInputs:
    return lambda batch, generator: (tokens(vocabulary, 12, batch, generator),)


def _masked(batch: int, generator: torch.Generator) -> Inputs:
    return {"tokens": tokens(40, 12, batch, generator), "mask": padding(12, batch, generator)}


def _sequence(length: int, size: int, batch: int, generator: torch.Generator) -> Tensor:
    return torch.randn(batch, length, size, generator=generator)


def _attended(batch: int, generator: torch.Generator) -> Inputs:
    return (*_two(batch, generator), padding(10, batch, generator) == 0)


def _two(batch: int, generator: torch.Generator) -> tuple[Any, ...]:
    return _sequence(12, 32, batch, generator), _sequence(10, 32, batch, generator)


def _mixed(batch: int, generator: torch.Generator) -> Inputs:
    valid = padding(12, batch, generator).bool()
    return tokens(20, 12, batch, generator), _sequence(12, 4, batch, generator), valid


_NETWORKS: dict[type[nn.Module], MakeInputs] = {
    images.LeNet: image(1, 32, 32),
    images.UNetInterpolate: image(3, 36, 36),
    images.UNetTransposed: image(3, 36, 36),
    images.SqueezeExcite: _PHOTO,
    images.ChannelShuffle: _PHOTO,
    images.DepthwiseSeparable: _PHOTO,
    images.YoloHead: _PHOTO,
    images.SiluConcatResize: _PHOTO,
    images.CoordinateGrid: _PHOTO,
    signals.SuperResolution: image(3, 16, 16),
    signals.DcganGenerator: noise(16),
    signals.Autoencoder: _PHOTO,
    signals.AudioNet: noise(1, 400),
    signals.VolumeNet: clip(1, 8, 16),
    signals.GroupNormNet: _PHOTO,
    structures.DictInOut: _dict,
    structures.DataclassOut: _PHOTO,
    structures.NamedTupleInOut: _photos(2, lambda a, b: (structures.Pair(a, b),)),
    structures.NestedTuples: _nested,
    structures.ArgsKwargs: _photos(2),
    structures.Siamese: _photos(2),
    structures.ReusedConv: _PHOTO,
    structures.ReusedUnequally: _PHOTO,
    structures.EmptyModules: _PHOTO,
    structures.Nesting: image(3, 16, 16),
    python.FunctionalOnly: _PHOTO,
    python.WeightStandardised: _PHOTO,
    python.InplaceChain: _PHOTO,
    python.ShapeBranch: image(3, 33, 32),
    python.LenOfBatch: _PHOTO,
    python.ChunkLoop: _PHOTO,
    python.StraightThrough: _PHOTO,
    python.Checkpointed: _PHOTO,
    python.Scripted: _PHOTO,
    weights.TiedWeights: _ids(50),
    weights.WeightNormHook: noise(4, 24),
    weights.Parametrized: _PHOTO,
    weights.Symmetric: noise(8),
    weights.FrozenNorm: _PHOTO,
    weights.BufferArithmetic: _PHOTO,
    weights.MixedTypes: _mixed,
    sequences.HandAttention: _masked,
    sequences.CausalAttention: _ids(40),
    sequences.EinsumAttention: noise(12, 32),
    sequences.MultiheadAttention: _attended,
    sequences.TransformerEncoder: noise(12, 32),
    sequences.PreNormTransformer: _two,
    sequences.LstmNet: noise(12, 8),
    sequences.GruNet: _ids(30),
    sequences.TimeLoop: noise(6, 8),
    sequences.LstmCellLoop: noise(6, 8),
}
