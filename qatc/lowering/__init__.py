"""From a trained graph to an ONNX file, and the check that they agree."""

from qatc.lowering.lowered import Lowered, lower, lowered_proto
from qatc.lowering.options import LoweringOptions
from qatc.lowering.replace_placement import replace_placement
from qatc.lowering.verification import Verification, Verifications
from qatc.lowering.verify import verify, verify_on

__all__ = [
    "Lowered", "LoweringOptions", "Verification", "Verifications", "lower", "lowered_proto", "replace_placement",
    "verify", "verify_on",
]  # fmt: skip
