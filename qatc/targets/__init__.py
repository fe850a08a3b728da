"""The targets, a file each; adding one is its file, one line here, and its golden test."""

from qatc.errors import unknown
from qatc.targets.onnxruntime import ONNXRUNTIME
from qatc.targets.openvino import OPENVINO
from qatc.targets.qnn import QNN
from qatc.targets.target import (
    ActivationRule,
    FileRule,
    FixedGrid,
    GridNeed,
    OpRule,
    Target,
    VerifyRule,
    WeightRule,
)
from qatc.targets.tensorrt import TENSORRT
from qatc.targets.tidl import TIDL, TIDL_TDA4VM

TARGETS: dict[str, Target] = {
    target.name: target for target in (ONNXRUNTIME, TENSORRT, OPENVINO, TIDL, TIDL_TDA4VM, QNN)
}


def target_of(target: "str | Target") -> Target:
    """Return the target itself, or the one of that name; an unknown name is a `ConfigError`."""
    if isinstance(target, Target):
        return target
    if target in TARGETS:
        return TARGETS[target]
    raise unknown("target", target, TARGETS, "targets: {}; or pass a Target")


__all__ = [
    "TARGETS", "ActivationRule", "FileRule", "FixedGrid", "GridNeed", "OpRule", "Target", "VerifyRule", "WeightRule",
    "target_of",
]  # fmt: skip
