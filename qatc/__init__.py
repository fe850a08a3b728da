"""qatc: a quantization-aware-training compiler for PyTorch."""

from qatc.api import calibrate, float_mode, freeze_bn, freeze_ranges, prepare
from qatc.bn_reestimation import reestimate_bn
from qatc.checkpoint import load, save
from qatc.config import LayerConfig, QConfig, Rule
from qatc.debugging import ScaleHistory, debug, sensitivity
from qatc.errors import QatcError, QatcWarning
from qatc.float_state import float_state_dict
from qatc.listing import targets
from qatc.lowering import LoweringOptions, lower, replace_placement
from qatc.oscillation import Oscillation
from qatc.param_groups import param_groups
from qatc.pipeline import Pass, Pipeline
from qatc.prepared import PreparedModel
from qatc.ptq.clip_weights import clip_weights
from qatc.ptq.correct_biases import correct_biases
from qatc.ptq.equalize import equalize
from qatc.ptq.quantize import quantize
from qatc.schedule import Schedule
from qatc.simulator.accumulators import accumulators
from qatc.spec import QuantSpec
from qatc.targets import Target

__version__ = "0.1.0"

__all__ = [
    "prepare", "calibrate", "freeze_bn", "freeze_ranges", "float_mode", "float_state_dict", "param_groups", "save",
    "load", "lower", "LoweringOptions", "quantize", "replace_placement", "accumulators", "targets",
    "equalize", "clip_weights", "correct_biases", "reestimate_bn", "debug", "sensitivity", "Oscillation",
    "ScaleHistory", "Schedule",
    "QConfig", "LayerConfig", "Rule", "QuantSpec", "Target", "Pass", "Pipeline", "PreparedModel", "QatcError",
    "QatcWarning", "__version__",
]  # fmt: skip
