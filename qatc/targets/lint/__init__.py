"""Static checks of an ONNX QDQ file against the rules that a target's vendor publishes, or that were measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx

from qatc.errors import unknown
from qatc.targets.lint.graph import GraphView
from qatc.targets.lint.onnxruntime import ONNXRUNTIME_RULES
from qatc.targets.lint.openvino import OPENVINO_RULES
from qatc.targets.lint.qnn import QNN_RULES
from qatc.targets.lint.rule import Finding, LintRule, Severity
from qatc.targets.lint.tensorrt import TENSORRT_RULES
from qatc.targets.lint.tidl import TIDL_LINT, TIDL_RULES, TIDL_TDA4VM_LINT

__all__ = ["RULES", "RULE_LISTS", "Finding", "LintRule", "Severity", "lint"]

_ALL = (*TENSORRT_RULES, *ONNXRUNTIME_RULES, *OPENVINO_RULES, *TIDL_RULES, *QNN_RULES)
RULES: Mapping[str, LintRule] = MappingProxyType({rule.id: rule for rule in _ALL})

# The rules of a file for each target.
RULE_LISTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "onnxruntime": tuple(rule.id for rule in ONNXRUNTIME_RULES),
        "tensorrt": tuple(rule.id for rule in TENSORRT_RULES),
        "openvino": tuple(rule.id for rule in OPENVINO_RULES),
        "tidl": TIDL_LINT,
        "tidl-tda4vm": TIDL_TDA4VM_LINT,
        "qnn": tuple(rule.id for rule in QNN_RULES),
    }
)


def lint(model: onnx.ModelProto, rules: Sequence[str], *, folder: Path | None = None) -> tuple[Finding, ...]:
    """Return what the named rules find in the model, rule by rule, in the file's node order.

    `folder` is where the model's external data lie; what lies there is read tensor by tensor, and without it not at
    all. A rule that there is not is a `ConfigError`.
    """
    chosen = [_rule(name) for name in rules]
    view = GraphView(model, folder)
    return tuple(
        Finding(rule.id, rule.severity, node.name, message) for rule in chosen for node, message in rule.check(view)
    )


def _rule(name: str) -> LintRule:
    if name in RULES:
        return RULES[name]
    raise unknown("lint rule", name, RULES, "`qatc lint --list-rules` has them all")
