"""The whole of what a user asks for: defaults and ordered rules, in Python or as TOML."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qatc.config.layers import Layer, LayerConfig, Rule
from qatc.config.toml import parsed, written
from qatc.config.values import check_settings, names_of, setting
from qatc.errors import ConfigError
from qatc.schedule import Schedule
from qatc.spec import BATCH_NORM_MODES, Pow2
from qatc.targets import TARGETS


@dataclass(frozen=True)
class QConfig:
    """What the user asks for: defaults for every layer, then ordered rules of which the last that matches wins."""

    default: LayerConfig = setting(LayerConfig(), "What is asked of every layer.")
    rules: tuple[Rule, ...] = setting((), "Rules for some layers, in order: the last that matches wins.")
    pow2: bool | Pow2 = setting(
        False,
        "Whether every scale is a power of two, and how it is rounded to one: `up` (which `true` is too: the range "
        "stays covered), `down`, or `round` to the nearest exponent.",
    )
    target: str | None = setting(
        None, "The target that it is meant for; one that `prepare` is given goes first.",
        names_of("target", lambda: TARGETS),
    )  # fmt: skip

    batch_norm: str = setting(
        "batch",
        "How BatchNorms that are folded into layers train: on batch statistics, by one convolution (`batch`), by two, "
        "or with the deployed layer's values and the float one's gradient (`straight-through`); on running ones from "
        "the first step (`frozen`); or folded into weight and bias before training (`folded`), which a float "
        "checkpoint then no longer fits.",
        names_of("BatchNorm mode", lambda: BATCH_NORM_MODES),
    )
    schedule: Schedule | None = setting(None, "When a run records, quantizes and freezes.")

    def __post_init__(self) -> None:
        check_settings(self)

    def resolve(self, layers: Sequence[Layer]) -> dict[str, LayerConfig]:
        """Return the settings of each layer by name; a rule that matches none is a `ConfigError`."""
        resolved = {layer.name: self.default for layer in layers}
        for rule in self.rules:
            hits = [layer.name for layer in layers if rule.matches(layer)]
            if not hits:
                raise ConfigError(f"rule {rule.match!r} matches no layer", remedy=_proposal(rule, layers))
            for name in hits:
                resolved[name] = rule.applied_to(resolved[name])
        return resolved

    def to_toml(self) -> str:
        """Return the configuration as the text of a TOML file.

        Raises:
            ConfigError: a rule matches by a predicate, which is code.

        """
        return written(self)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> "QConfig":
        """Return the configuration in a TOML file; docs/configuration.md has its keys.

        Raises:
            ConfigError: the file cannot be read, or a key or value in it is wrong; it names file, line and table.

        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"the configuration cannot be read: {reason}", where=str(path)) from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, where: str = "the configuration") -> "QConfig":
        """Return the configuration that a TOML text describes; errors name it by `where`."""
        from qatc.config.presets import preset  # noqa: PLC0415  (presets are configurations)

        return parsed(cls, text, where, preset)


def _proposal(rule: Rule, layers: Sequence[Layer]) -> str:
    if not isinstance(rule.match, str):
        return "check the type against print(model)"
    if rule.match.startswith("type:"):
        types = {name for layer in layers for name in layer.type_names}
        return f"types of this model: {_nearest(rule.match.removeprefix('type:'), sorted(types))}"
    as_type = [layer for layer in layers if rule.match in layer.type_names]
    if as_type:
        return f"to match by type, write 'type:{rule.match}'"
    return "names are those of the model's own modules; " + _nearest(
        rule.match.removeprefix("re:"), [layer.name for layer in layers]
    )


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
    listed = ", ".join(map(repr, near or names[:4]))
    return f"{'the nearest' if near else 'the first'}: {listed}"
