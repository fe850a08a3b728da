"""From a trained graph to an ONNX file, and the check that they agree."""

from qatc.lower.lower import Lowered, lower, lowered_proto
from qatc.lower.verify import Verification, verify

__all__ = ["Lowered", "Verification", "lower", "lowered_proto", "verify"]
