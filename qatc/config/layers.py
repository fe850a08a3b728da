"""What is asked of a layer (`LayerConfig`), and the rules that ask it of some (`Rule`)."""

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from torch import nn

from qatc.config.values import Values, check_settings, names_of, setting
from qatc.errors import ConfigError
from qatc.quantizers import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS
from qatc.ranges import RANGE_ESTIMATORS, range_estimator
from qatc.spec import MAX_BITS, MIN_ACTIVATION_BITS, MIN_BITS, STES, QuantSpec

_WIDTHS = Values(lambda: f"{MIN_BITS} to {MAX_BITS}", lambda bits: QuantSpec(bits=bits))
_ACTIVATION_WIDTHS = Values(lambda: f"{MIN_ACTIVATION_BITS} to {MAX_BITS}", lambda bits: _check_activation_bits(bits))
_RANGES = Values(
    lambda: ", ".join(f"`{name}`" for name in RANGE_ESTIMATORS) + "; with a number: `percentile:99.9`",
    lambda name: range_estimator(name, QuantSpec()),
)


@dataclass(frozen=True)
class LayerConfig:
    """What is asked of one layer; `activation_bits` is the width of the tensors that it reads."""

    weight_bits: int = setting(8, "Width of the weights.", _WIDTHS)
    activation_bits: int = setting(8, "Width of the tensors that the layer reads.", _ACTIVATION_WIDTHS)
    weight_quantizer: str = setting(
        "tracked", "How weights are quantized.", names_of("weight quantizer", lambda: WEIGHT_QUANTIZERS)
    )
    activation_quantizer: str = setting(
        "tracked", "How the tensors that the layer reads are.",
        names_of("activation quantizer", lambda: ACTIVATION_QUANTIZERS),
    )  # fmt: skip
    weight_range: str | None = setting(
        None, "How a weight's range is estimated; without it, as its quantizer does by itself.", _RANGES
    )
    activation_range: str | None = setting(
        None, "How the ranges of those tensors are; without it, as their quantizer does by itself.", _RANGES
    )
    per_channel: bool = setting(True, "Whether each output channel of a weight has a scale, where the target allows.")
    quantize: bool = setting(True, "Whether the layer is quantized at all.")
    ste: str = setting(
        "masked",
        "The straight-through estimator of its weights and of what it reads: values that were clipped get no gradient, "
        "or theirs as it is.",
        names_of("straight-through estimator", lambda: STES),
    )

    def __post_init__(self) -> None:
        check_settings(self)


Matcher = str | type | Callable[[str, nn.Module], bool]


@dataclass(frozen=True)
class Rule:
    """Settings for the layers that `match`: a name, a glob, `re:<regex>`, a module type, or a predicate (name, module).

    `"type:Conv2d"` is a type by its name, alone or dotted: any module that is one, or of a subclass. `":first"` and
    `":last"` are the layers with weights that no other one comes before or after.
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
    ste: str | None = None

    def __post_init__(self) -> None:
        check_settings(self, LayerConfig)
        if isinstance(self.match, str):
            _check_pattern(self.match)

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
            case str(pattern) if pattern.startswith("type:"):
                return pattern[5:] in layer.type_names
            case str(pattern) if pattern.startswith("re:"):
                return any(re.fullmatch(pattern[3:], name) for name in layer.names)
            case str(pattern):
                return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for name in layer.names)
            case type() as kind:
                return isinstance(layer.module, kind)
            case predicate:
                return predicate(layer.name, layer.module)


def _check_activation_bits(bits: int) -> None:
    if not MIN_ACTIVATION_BITS <= bits <= MAX_BITS:
        raise ConfigError(f"{bits} bits asked for", remedy=f"choose {MIN_ACTIVATION_BITS} to {MAX_BITS}")


def _check_pattern(pattern: str) -> None:
    if pattern.startswith(":") and pattern not in (":first", ":last"):
        raise ConfigError(f"match is {pattern!r}", remedy="write ':first' or ':last', or the name of a layer")
    try:
        re.compile(pattern[3:] if pattern.startswith("re:") else "")
    except re.error as error:
        raise ConfigError(
            f"match is {pattern!r}, no regular expression: {error}", remedy="escape what is meant as it stands: '\\.'"
        ) from error


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

    @property
    def type_names(self) -> frozenset[str]:
        """The names that a rule may call its type by, and those of the types that this one is a kind of."""
        kinds = [kind for kind in type(self.module).__mro__ if issubclass(kind, nn.Module)]
        return frozenset(name for kind in kinds for name in (kind.__name__, type_name(kind), _full_name(kind)))


def type_name(kind: type) -> str:
    """Return the dotted name of a type, as one writes it: `torch.nn.Conv2d`."""
    public = getattr(nn, kind.__name__, None) is kind
    return f"torch.nn.{kind.__name__}" if public else _full_name(kind)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
