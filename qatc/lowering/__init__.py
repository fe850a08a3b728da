"""From a trained graph to an ONNX file, and the check that they agree."""

from qatc.lowering.lowered import Lowered, lower, lowered_proto
from qatc.lowering.options import LoweringOptions
from qatc.lowering.replace_placement import replace_placement
from qatc.lowering.verify import Verification, verify

__all__ = ["Lowered", "LoweringOptions", "Verification", "lower", "lowered_proto", "replace_placement", "verify"]
