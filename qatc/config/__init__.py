"""What a user asks for: settings by layer, rules, presets; in Python or in a TOML file."""

from qatc.config.founders import FOUNDERS
from qatc.config.layers import Layer, LayerConfig, Matcher, Rule
from qatc.config.presets import PRESETS, config_name, config_of, preset
from qatc.config.qconfig import QConfig

__all__ = [
    "FOUNDERS",
    "PRESETS",
    "Layer",
    "LayerConfig",
    "Matcher",
    "QConfig",
    "Rule",
    "config_name",
    "config_of",
    "preset",
]
