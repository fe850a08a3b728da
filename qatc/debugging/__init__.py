"""Accuracy debugging: where a quantized model parts from itself in float, and which layers to keep at more bits."""

from qatc.debugging.debug import debug
from qatc.debugging.figures import Agreement, FileCodes, Usage
from qatc.debugging.proposal import LayerDamage, Sensitivity
from qatc.debugging.report import DebugReport, DebugRow
from qatc.debugging.scale_history import ScaleHistory
from qatc.debugging.sensitivity import sensitivity

__all__ = [
    "Agreement", "DebugReport", "DebugRow", "FileCodes", "LayerDamage",
    "ScaleHistory", "Sensitivity", "Usage", "debug", "sensitivity",
]  # fmt: skip
