"""qatc: a quantization-aware-training compiler for PyTorch."""

from qatc.api import calibrate, float_mode, freeze_bn, freeze_ranges, prepare
from qatc.checkpoint import load, save
from qatc.errors import QatcError, QatcWarning
from qatc.float_state import float_state_dict
from qatc.lowering import lower
from qatc.pipeline import Pass, Pipeline
from qatc.prepared import PreparedModel
from qatc.spec import LayerConfig, QConfig, QuantSpec, Rule
from qatc.targets import Target

__version__ = "0.1.0"

__all__ = [
    "prepare", "calibrate", "freeze_bn", "freeze_ranges", "float_mode", "float_state_dict", "save", "load", "lower",
    "QConfig", "LayerConfig", "Rule", "QuantSpec", "Target", "Pass", "Pipeline", "PreparedModel", "QatcError",
    "QatcWarning", "__version__",
]  # fmt: skip
