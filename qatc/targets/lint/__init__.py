"""Static checks of an ONNX QDQ file against the rules that a target's vendor publishes."""

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import onnx

from qatc.targets.lint.graph import GraphView
from qatc.targets.lint.rule import Finding, LintRule
from qatc.targets.lint.tensorrt import TENSORRT_RULES

__all__ = ["RULES", "Finding", "LintRule", "lint"]

RULES: Mapping[str, LintRule] = MappingProxyType({rule.id: rule for rule in TENSORRT_RULES})


def lint(model: onnx.ModelProto, rules: Sequence[str]) -> tuple[Finding, ...]:
    """Return what the named rules find in the model, rule by rule, in the file's node order."""
    chosen = [_rule(name) for name in rules]
    view = GraphView(model)
    return tuple(
        Finding(rule.id, rule.severity, node.name, message) for rule in chosen for node, message in rule.check(view)
    )


def _rule(name: str) -> LintRule:
    if name in RULES:
        return RULES[name]
    nearest = difflib.get_close_matches(name.upper(), RULES, n=1, cutoff=0.0)
    raise ValueError(f"no lint rule is called {name!r}; did you mean {nearest[0]!r}?")
