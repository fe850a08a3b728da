"""The simulator as a runtime of the verification."""

import pytest

from qatc.lowering import lowered_proto, verify_on
from tests.lowering.networks import calibrated, data


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("config", ["w8a8", "w8a8-pow2", "w4a4"])
def test_what_was_simulated_in_training_is_what_it_computes(target: str, config: str) -> None:
    model = calibrated(target, config)
    (run,) = verify_on(model, lowered_proto(model), {"x": data().numpy()}, ["simulator"]).runs
    assert run.passed, str(run)
    assert run.runtime == "simulator"
    assert run.codes > 100_000
    assert run.differing == 0
