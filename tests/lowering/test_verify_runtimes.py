"""Verification on several runtimes: which run, which decide, what is said of ties, and what the JSON holds."""

import json
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.errors import ConfigError, VerificationError
from qatc.lowering import Lowered, Verifications, lowered_proto, verify, verify_on
from qatc.lowering.verification import TensorCheck, Verification
from qatc.runtimes import RUNTIMES, Runtime
from qatc.targets import TARGETS
from tests.lowering.networks import calibrated, data

SAMPLES = {"x": data(3).numpy()}


def corrupted(lowered: Lowered, name: str) -> Lowered:
    """Return the file with a constant's sign turned."""
    proto = onnx.ModelProto()
    proto.CopyFrom(lowered.proto)
    constant = next(c for c in proto.graph.initializer if c.name == name)
    constant.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(constant), name))
    return replace(lowered, proto=proto)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_names_the_runtime_that_decides(target: str) -> None:
    model = calibrated(target, "w8a8-pow2")
    check = verify(model, lowered_proto(model), SAMPLES)
    (name,) = TARGETS[target].verify.runtimes
    assert (check.runtime, check.version) == (name, RUNTIMES[name].version)
    assert check.passed, check
    assert str(check).startswith(f"{name} {check.version}\n")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_that_computes_something_else_is_found_on_each(runtime: str) -> None:
    model = calibrated("openvino", "w8a8-pow2")
    lowered = lowered_proto(model)
    assert verify(model, lowered, SAMPLES, runtime=runtime).passed
    check = verify(model, corrupted(lowered, "body.weight_codes"), SAMPLES, runtime=runtime)
    assert not check.passed
    worst = max(check.tensors, key=lambda t: t.differing)
    assert (worst.name, worst.step > 1, worst.sqnr < 60) == ("relu__call1_q", True, True)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_output_that_lies_on_no_grid_is_looked_at_too(runtime: str) -> None:
    model = calibrated("openvino", "w8a8-pow2")
    check = verify(model, corrupted(lowered_proto(model), "head.weight_codes"), SAMPLES, runtime=runtime)
    assert (check.differing, check.differing_end_to_end) == (0, 0)
    assert (check.agreeing, check.least_agreeing) == (1.0, RUNTIMES[runtime].agreeing)
    assert check.sqnr_per_op < 10
    assert not check.passed
    assert replace(check, sqnr_per_op=100.0).passed


def test_the_target_s_own_runtime_decides_among_several() -> None:
    """OpenVINO drops the grid between a convolution and the sum, which ONNX Runtime's files have."""
    model = calibrated("onnxruntime", "w8a8")
    found = verify_on(model, lowered_proto(model), {"x": data(12).numpy()}, ("onnxruntime", "openvino", "onnxruntime"))
    assert [run.runtime for run in found.runs] == ["onnxruntime", "openvino"]
    own, other = found.runs
    assert (own.agreeing, own.least_agreeing) == (1.0, 0.0)
    assert other.agreeing < other.least_agreeing == 0.75
    assert f"the file gives the same in {other.agreeing:.0%} of the samples" in str(other)
    assert (own.passed, other.passed, found.passed) == (True, False, True)
    assert own.tensors[0].codes == other.tensors[0].codes
    assert str(found).endswith(
        "NOT verified: the file does not compute what was simulated\n(not what decides for onnxruntime)"
    )
    assert not replace(found, runs=(other,)).passed  # it is what was asked for


def test_json_has_every_tensor_on_every_runtime() -> None:
    model = calibrated("onnxruntime", "w8a8-pow2")
    found = verify_on(model, lowered_proto(model), SAMPLES, ("onnxruntime-unoptimized", "openvino"))
    said = json.loads(found.as_json())
    assert (said["target"], said["passed"]) == ("onnxruntime", found.passed)
    assert [run["runtime"] for run in said["runtimes"]] == ["onnxruntime-unoptimized", "openvino"]
    exact, other = said["runtimes"]
    assert exact["outputs_sqnr_db"] is None  # nothing differs
    assert other["outputs_sqnr_db"] == pytest.approx(found.runs[1].sqnr)
    for run, check in zip(said["runtimes"], found.runs, strict=True):
        assert len(run["tensors"]) == len(check.tensors) == 10
        assert sum(t["codes"] for t in run["tensors"]) == run["codes"] == check.codes
        assert sum(t["differing_end_to_end"] for t in run["tensors"]) == run["differing_end_to_end"]
        assert (run["passed"], run["decides"], run["samples"]) == (check.passed, True, 3)


def test_the_ten_worst_tensors_come_first() -> None:
    tensors = tuple(TensorCheck(f"t{n}", 1000, n, 1, 0, 0, power=100.0, error=n) for n in range(15))
    shown = str(Verification(tensors, 40.0, 40.0, 1e-5, 1, exact=False)).splitlines()
    assert [line.split()[0] for line in shown[1:11]] == [f"t{n}" for n in range(14, 4, -1)]
    assert shown[5].split()[1:] == ["1000", "10", "1", "0", "0", "10.0"]
    assert tensors[0].sqnr == math.inf


class Late(nn.Module):
    """The image itself, then a convolution: all its codes are of one float tensor and of one sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.relu(self.conv(x)))
        return result


def test_a_code_at_a_tie_that_the_runtime_cannot_see_is_told_from_others() -> None:
    """FakeQuantize adds the zero point before it rounds: 16 and half a step less 2^-18 then lies on the tie."""
    torch.manual_seed(0)
    model = qatc.prepare(Late().eval(), torch.randn(4, 3, 4, 4), "openvino", "w8a8-pow2")
    qatc.calibrate(model, [torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))], progress=False)
    lowered = lowered_proto(model.eval())
    quantizer = model.get_submodule("x_q")
    grid = quantizer.checked_grid(torch.empty(0))  # type: ignore[operator]
    scale = float(grid.scale)
    assert float(grid.zero_point) >= 64
    x = np.zeros((3, 3, 4, 4), np.float32)
    x[1] = scale * 13.0
    x[2, 0, 0, 0] = scale * np.float32(17.5 - 2**-18)
    check = verify(model, lowered, {"x": x})
    tensor = check.tensors[0]
    assert (tensor.name, tensor.differing, tensor.step, tensor.at_ties) == ("x_q", 1, 1, 1)
    assert check.differing_end_to_end >= 1
    assert (check.samples, check.samples_behind_ties, check.passed) == (3, 1, True)
    assert "1 differ per op (1 at ties, in 1 of 3 samples)" in str(check)
    assert verify(model, lowered, {"x": x}, runtime="onnxruntime-unoptimized").differing == 0


@pytest.mark.parametrize("spoilt", [
    {"differing": 2}, {"differing_end_to_end": 6}, {"at_ties": 0}, {"behind_ties": 4},
])  # fmt: skip
def test_with_powers_of_two_only_ties_are_let_pass(spoilt: dict[str, int]) -> None:
    tensor = TensorCheck("t", 1000, 1, 1, 5, 3, at_ties=1, behind_ties=5)
    good = Verification((tensor,), 40.0, 40.0, 1e-5, 1, exact=True)
    assert good.passed
    assert not replace(good, tensors=(replace(tensor, **spoilt),)).passed  # type: ignore[arg-type]


def test_a_runtime_that_is_missing_or_unknown_is_an_error() -> None:
    model = calibrated("openvino", "w8a8-pow2")
    absent = Runtime("openvino", "", "no_such_package", RUNTIMES["openvino"].start, extra="openvino")
    with pytest.raises(VerificationError, match=r"openvino is not installed\n  try: pip install qatc\[openvino\]"):
        verify(model, lowered_proto(model), SAMPLES, runtime=absent)
    with pytest.raises(ConfigError, match="unknown runtime 'opnvino'"):
        verify_on(model, lowered_proto(model), SAMPLES, ("opnvino",))


def test_nothing_decides_that_did_not_run() -> None:
    runs = tuple(Verification((), 40.0, 40.0, 1e-5, 1, exact=False, runtime=name) for name in ("a", "b"))
    assert [Verifications("t", runs, ("b",)).decides(run) for run in runs] == [False, True]
    assert [Verifications("t", runs, ("c",)).decides(run) for run in runs] == [True, True]
