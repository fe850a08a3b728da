"""What a tensor is quantized to (`QuantSpec`), and what a user asks for (`QConfig` and its ordered rules)."""

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import torch
from torch import nn

from qatc.errors import ConfigError, unknown

Pow2 = Literal["up", "down"]
BATCH_NORM_MODES = ("batch", "two-convolutions", "straight-through", "frozen", "folded")
# In these, training uses no batch statistics: evaluated alone are they the float model.
WITHOUT_BATCH_STATISTICS = ("frozen", "folded")
MAX_BITS = 8
MIN_BITS = 2


@dataclass(frozen=True)
class QuantSpec:
    """The integer grid of one tensor: real = (code - zero_point) * scale.

    `symmetric` fixes the zero point at 0. `axis` is the channel axis with a scale per channel, or None for one scale.
    `narrow` drops the lowest code, so that the grid of a signed tensor is mirror-symmetric. `pow2` rounds scales to a
    power of two, up (the range is covered) or down (the grid stays inside it). `upper` is the value that the producer
    clips at (ReLU6: 6): the grid never reaches beyond it, since runtimes fuse a clip only if it is redundant.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    axis: int | None = None
    narrow: bool = False
    pow2: Pow2 | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ConfigError(f"{self.bits} bits asked for", remedy=f"choose {MIN_BITS} to {MAX_BITS}")
        if self.narrow and not (self.signed and self.symmetric):
            raise ConfigError("a narrow range needs a signed, symmetric grid", remedy="drop narrow, or set both")

    @property
    def qmin(self) -> int:
        """The lowest code."""
        return int(self.narrow) - (1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """The highest code."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def dtype(self) -> torch.dtype:
        """The storage type of the codes (below 8 bits they are kept in 8)."""
        return torch.int8 if self.signed else torch.uint8

    def __str__(self) -> str:
        """Render the dump form: `s8/ch0`, `u8`, `u8/asym`, `s4/pow2`."""
        parts = [f"{'s' if self.signed else 'u'}{self.bits}"]
        if self.axis is not None:
            parts.append(f"ch{self.axis}")
        if not self.symmetric:
            parts.append("asym")
        if self.pow2:
            parts.append("pow2" if self.pow2 == "up" else "pow2-down")
        return "/".join(parts)


@dataclass(frozen=True)
class LayerConfig:
    """What is asked of one layer; `activation_bits` is the width of the tensors that it reads.

    The quantizers are named in `qatc.quantizers`, the estimators of their ranges in `qatc.ranges`; without one a
    quantizer takes its own.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    weight_quantizer: str = "tracked"
    activation_quantizer: str = "tracked"
    weight_range: str | None = None
    activation_range: str | None = None
    per_channel: bool = True
    quantize: bool = True

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, self.activation_bits):
            QuantSpec(bits=bits)


Matcher = str | type | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Rule:
    """Settings for the layers that `match`: a name, a glob, `re:<regex>`, a module type, or a predicate (name, module).

    `":first"` and `":last"` are the layers with weights that no other one comes before or after.
    Fields left at None stay as they were. Example: `Rule("layer1.*", weight_bits=4)`.
    """

    match: Matcher
    weight_bits: int | None = None
    activation_bits: int | None = None
    weight_quantizer: str | None = None
    activation_quantizer: str | None = None
    weight_range: str | None = None
    activation_range: str | None = None
    per_channel: bool | None = None
    quantize: bool | None = None

    def __post_init__(self) -> None:
        for bits in (self.weight_bits, self.activation_bits):
            if bits is not None:
                QuantSpec(bits=bits)

    def applied_to(self, base: LayerConfig) -> LayerConfig:
        """Return `base` with this rule's settings over it."""
        given = {f.name: getattr(self, f.name) for f in fields(LayerConfig) if getattr(self, f.name) is not None}
        return replace(base, **given)

    def matches(self, layer: "Layer") -> bool:
        """Say whether this rule speaks of `layer`."""
        match self.match:
            case ":first":
                return layer.first
            case ":last":
                return layer.last
            case str(pattern) if pattern.startswith("re:"):
                return any(re.fullmatch(pattern[3:], name) for name in layer.names)
            case str(pattern):
                return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for name in layer.names)
            case type() as kind:
                return isinstance(layer.module, kind)
            case predicate:
                return predicate(layer.name, layer.module)


@dataclass(frozen=True)
class Layer:
    """One op as rules see it: its name and module, and whether it is a first or a last layer with weights.

    `written` is the user's own name where it differs: that of a module called more than once, at its further calls.
    """

    name: str
    module: nn.Module
    first: bool = False
    last: bool = False
    written: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a rule may call it by."""
        return (self.name,) if self.written is None else (self.name, self.written)


@dataclass(frozen=True)
class QConfig:
    """What the user asks for: defaults for every layer, then ordered rules of which the last that matches wins.

    `pow2` makes all scales powers of two. `batch_norm` says how BatchNorms that are folded into layers train: on batch
    statistics, by one convolution (`batch`), by two (`two-convolutions`), or with the deployed layer's values and the
    float one's gradient (`straight-through`); on running ones from the first step (`frozen`); or folded into weight and
    bias before training (`folded`), which a float checkpoint then no longer fits.
    """

    default: LayerConfig = field(default_factory=LayerConfig)
    rules: tuple[Rule, ...] = ()
    pow2: bool = False
    batch_norm: str = "batch"

    def __post_init__(self) -> None:
        if self.batch_norm not in BATCH_NORM_MODES:
            raise unknown("BatchNorm mode", self.batch_norm, BATCH_NORM_MODES, "there are: {}")

    def resolve(self, layers: Sequence[Layer]) -> dict[str, LayerConfig]:
        """Return the settings of each layer by name; a rule that matches none is a `ConfigError`."""
        resolved = {layer.name: self.default for layer in layers}
        for rule in self.rules:
            hits = [layer.name for layer in layers if rule.matches(layer)]
            if not hits:
                raise ConfigError(f"rule {rule.match!r} matches no layer", remedy=_proposal(rule.match, resolved))
            for name in hits:
                resolved[name] = rule.applied_to(resolved[name])
        return resolved


def _proposal(match: Matcher, names: Iterable[str]) -> str:
    names = tuple(names)
    if not isinstance(match, str):
        return "check the type against print(model)"
    near = difflib.get_close_matches(match.removeprefix("re:"), names, n=3, cutoff=0.3)
    listed = ", ".join(map(repr, near or names[:4]))
    return f"names are those of the model's own modules; {'the nearest' if near else 'the first'}: {listed}"


_W8 = LayerConfig()
_W4 = LayerConfig(weight_bits=4, activation_bits=4, weight_quantizer="lsq", activation_quantizer="lsq")
# The first and the last layer keep 8 bits, as in every published 4-bit result (LSQ, arXiv:1902.08153, section 3).
_ENDS_AT_8 = (Rule(":first", weight_bits=8, activation_bits=8), Rule(":last", weight_bits=8, activation_bits=8))

PRESETS: dict[str, QConfig] = {
    "w8a8": QConfig(_W8),
    "w8a8-pow2": QConfig(_W8, pow2=True),
    "w4a4": QConfig(_W4, _ENDS_AT_8),
    "w4a4-pow2": QConfig(_W4, _ENDS_AT_8, pow2=True),
}


def config_of(config: "str | QConfig") -> QConfig:
    """Return the `QConfig` itself, or the preset of that name; an unknown name is a `ConfigError`."""
    if isinstance(config, QConfig):
        return config
    if config in PRESETS:
        return PRESETS[config]
    raise unknown("config", config, PRESETS, "presets: {}; or pass a QConfig")
