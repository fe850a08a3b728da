"""tools/bisect: that it names the pass that was planted, in what it compares, and nothing where all is well."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import fx, nn

from qatc import ir
from qatc.lowering import lowered
from qatc.lowering.lower_modules import lowering_pipeline
from qatc.passes import qat_pipeline
from qatc.pipeline import Pass, Pipeline
from qatc.quantizers import Quantizer
from qatc.trace import trace
from tools import bisect, model_options


def block() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))


MODEL = ["tests.test_bisect:block", "--shape", "2,3,8,8"]


@dataclass(frozen=True)
class LoseBias(Pass):
    """Changes the outputs."""

    name: ClassVar[str] = "lose-bias"

    def run(self, gm: fx.GraphModule) -> bool:
        layer = next(module for _, module in ir.module_calls(gm) if isinstance(module, nn.Conv2d))
        layer.register_parameter("bias", None)
        return True


@dataclass(frozen=True)
class DetachInput(Pass):
    """Changes the gradients alone: what stands before the last layer gets none."""

    name: ClassVar[str] = "detach-input"

    def run(self, gm: fx.GraphModule) -> bool:
        layer = [node for node, module in ir.module_calls(gm) if isinstance(module, nn.Conv2d)][-1]
        with gm.graph.inserting_before(layer):
            detached = gm.graph.call_method("detach", (layer.args[0],))
        layer.args = (detached,)
        gm.recompile()
        return True


@dataclass(frozen=True)
class Crash(Pass):
    """What a pass may do to a graph that the one before it left wrong."""

    name: ClassVar[str] = "crash"

    def run(self, gm: fx.GraphModule) -> bool:
        raise AssertionError("must not be reached")


@dataclass(frozen=True)
class HalveScale(Pass):
    """Halves the range of the last quantizer."""

    name: ClassVar[str] = "halve-scale"

    def run(self, gm: fx.GraphModule) -> bool:
        quantizer = [module for _, module in ir.module_calls(gm) if isinstance(module, Quantizer)][-1]
        quantizer.get_buffer("recorders.0.averages")[:2] *= 0.5  # low and high; the last row is their weight
        return True


@dataclass(frozen=True)
class HalveWeight(Pass):
    """Halves a weight in the file, where no graph shows it."""

    name: ClassVar[str] = "halve-weight"

    def run(self, gm: fx.GraphModule) -> bool:
        codes = next(tensor for name, tensor in gm.named_buffers() if name.endswith("weight_codes"))
        codes.div_(2, rounding_mode="trunc")
        return False


def planted(pipeline: Callable[..., Pipeline], *wrong: Pass, behind: str) -> Callable[..., Pipeline]:
    """Return what makes the pipeline with these passes behind the one named."""

    def made(*given: Any) -> Pipeline:
        passes: list[Pass] = []
        for step in pipeline(*given):
            passes += [step, *wrong] if step.name == behind else [step]
        return Pipeline(tuple(passes))

    return made


@pytest.mark.parametrize(
    ("wrong", "why", "line"),
    [
        (LoseBias(), "the output in eval mode is off by", ""),
        (DetachInput(), "gets no gradient any more", "+%detach = detach(%_0)"),
    ],
)
def test_the_planted_pass_is_named_with_what_is_off_and_what_it_changed(
    wrong: Pass, why: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = planted(qat_pipeline, wrong, Crash(), behind="fuse-conv-bn-act")
    monkeypatch.setattr(model_options, "qat_pipeline", made)
    assert bisect.main(MODEL) == 1
    head, difference, *rest = capsys.readouterr().out.splitlines()
    assert head == f"they part at 7 of 12: {wrong.name}"
    assert why in difference
    assert any(text.startswith(line) for text in rest) if line else rest == []


def test_a_model_that_no_pass_changes_is_the_same_to_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert bisect.main([*MODEL, "--target", "tensorrt"]) == 0
    assert capsys.readouterr().out == "the same from trace to leave-clips: 10 passes\n"


def test_lowering_is_the_same_to_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    for config in ("w8a8", "w4a4-pow2"):  # the second limits codes in place of a clip
        assert bisect.main([*MODEL, "--lower", "--config", config]) == 0
        assert capsys.readouterr().out == "the same from prepared to lower-modules: 9 passes\n"


@pytest.mark.parametrize(
    ("wrong", "behind", "named", "why"),
    [
        (HalveScale(), "drop-inactive", "7 of 9: halve-scale", "an output is off by"),
        (HalveWeight(), "lower-modules", "10 of 9: the file", "NOT verified"),
    ],
)
def test_a_pass_of_lowering_is_named_or_else_the_file(
    wrong: Pass,
    behind: str,
    named: str,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(lowered, "lowering_pipeline", planted(lowering_pipeline, wrong, behind=behind))
    assert bisect.main([*MODEL, "--lower"]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"they part at {named}\n")
    assert why in printed


def test_a_graph_that_is_traced_wrong_is_told_from_a_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(model: nn.Module, inputs: Any) -> fx.GraphModule:
        gm = trace(model, inputs)
        with torch.no_grad():
            gm.get_parameter("0.weight").mul_(2)
        return gm

    monkeypatch.setattr(model_options, "trace", wrong)
    assert bisect.main(MODEL) == 1
    assert capsys.readouterr().out.startswith("they part at 0 of 10: trace\n")


def test_bad_input_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert bisect.main(["lenett"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("bisect: error: no model 'lenett'; the nearest: lenet")
