"""Configurations by name."""

import os
from pathlib import Path

from qatc.config.founders import FOUNDERS
from qatc.config.layers import LayerConfig, Rule
from qatc.config.qconfig import QConfig
from qatc.errors import ConfigError, unknown

_W8 = LayerConfig()
_W4 = LayerConfig(weight_bits=4, activation_bits=4, weight_quantizer="lsq", activation_quantizer="lsq")
# The first and the last layer keep 8 bits, as in every published 4-bit result (LSQ, arXiv:1902.08153, section 3).
_ENDS_AT_8 = (Rule(":first", weight_bits=8, activation_bits=8), Rule(":last", weight_bits=8, activation_bits=8))

# The founding systems' are in qatc/config/founders.py.
PRESETS: dict[str, QConfig] = {
    "w8a8": QConfig(_W8),
    "w8a8-pow2": QConfig(_W8, pow2=True),
    "w4a4": QConfig(_W4, _ENDS_AT_8),
    "w4a4-pow2": QConfig(_W4, _ENDS_AT_8, pow2=True),
}


def preset(name: str) -> QConfig:
    """Return the preset of that name; an unknown one is a `ConfigError`."""
    known = PRESETS | FOUNDERS
    if isinstance(name, str) and name in known:
        return known[name]
    raise unknown("config", str(name), known, "presets: {}; or a QConfig, or a .toml file")


def config_of(config: "str | os.PathLike[str] | QConfig") -> QConfig:
    """Return the `QConfig` itself, the preset of that name, or the one in the file of that path (`*.toml`).

    Raises:
        ConfigError: there is no such preset, or the file is wrong.

    """
    match config:
        case QConfig():
            return config
        case str(name) if not name.endswith(".toml"):
            return preset(name)
        case str() | os.PathLike():
            return QConfig.from_toml(Path(config))
    raise ConfigError(
        f"a {type(config).__name__} is no configuration",
        remedy="pass a QConfig, a preset's name or a .toml file's path",
    )


def config_name(config: QConfig) -> str:
    """Return the name of the preset that the configuration is, or what it sets, as Python."""
    return next((name for name, known in (PRESETS | FOUNDERS).items() if known == config), repr(config))
