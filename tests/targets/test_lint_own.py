"""What qatc lowers keeps its target's rules: residual, depthwise, gated, concatenated, transposed, attention blocks."""

import pytest

from qatc.targets import TARGETS
from qatc.targets.lint import RULE_LISTS, lint
from tests.targets.lint_networks import NETWORKS, lowered

CONFIGS = ("w8a8", "w8a8-pow2", "w4a4")
# Each network and each target with every configuration, in a third of all combinations.
CASES = [
    (network, target, CONFIGS[(row + column) % len(CONFIGS)])
    for row, network in enumerate(NETWORKS)
    for column, target in enumerate(TARGETS)
]
# The gated product of squeeze-and-excite is no op of TensorRT's table, so one of its operands stays raw: true.
TRUE = {("squeeze and excite", "tensorrt"): {"TRT14", "TRT17"}}


@pytest.mark.parametrize(("network", "target", "config"), CASES)
def test_qatcs_own_files_have_no_errors_and_no_warnings(network: str, target: str, config: str) -> None:
    found = lint(lowered(network, target, config), RULE_LISTS[target])
    expected = TRUE.get((network, target), set())
    assert [str(f) for f in found if f.severity != "note" and f.rule not in expected] == []


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_names_its_whole_list(target: str) -> None:
    assert TARGETS[target].lint == RULE_LISTS[target]
