"""The recipes for a pass, a quantizer and a target hold: each is made here, outside the package, and runs."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, fx, nn

import qatc
from qatc import ir
from qatc.cli import lower_main
from qatc.config import LayerConfig, QConfig
from qatc.grid import Grid, grid_from_range
from qatc.invariants import ONE_CALL_SITE, Invariant
from qatc.passes import DedupModules, qat_pipeline
from qatc.quantizers import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS, Fixed, Quantizer
from qatc.ranges import Range
from qatc.rewrite import Chain, Op, Rule, apply
from qatc.spec import QuantSpec
from qatc.targets import TARGETS, ActivationRule, FileRule, OpRule, Target, VerifyRule, WeightRule
from qatc.trace import trace
from tests.check_pass import check_pass
from tests.models import Classifier, conv, images, randomise


@dataclass(frozen=True)
class DropIdentities(qatc.Pass):
    """nn.Identity goes."""

    name: ClassVar[str] = "drop-identities"
    requires: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE,)

    def run(self, gm: fx.GraphModule) -> bool:
        return bool(apply(gm, (Rule("identity", Chain((Op((nn.Identity,)),)), self.drop),)))

    @staticmethod
    def drop(gm: fx.GraphModule, node: fx.Node) -> bool:
        node.replace_all_uses_with(node.all_input_nodes[0])
        gm.graph.erase_node(node)
        return True


def test_a_pass() -> None:
    model = nn.Sequential(conv(3, 4), nn.Identity(), nn.ReLU())
    check_pass(
        DropIdentities(),
        model,
        snapshot("""\
-%_1 = Identity(%_0) : f32[N,4,8,8]  # 1
-%_2 = ReLU(%_1) : f32[N,4,8,8]  # 2
+%_2 = ReLU(%_0) : f32[N,4,8,8]  # 2
"""),
        before=[DedupModules()],
    )
    before, *rest = qat_pipeline(TARGETS["onnxruntime"], QConfig())
    gm = trace(randomise(model), [images()])
    qatc.Pipeline((before, DropIdentities(), *rest)).run(gm)
    assert [type(m).__name__ for _, m in ir.module_calls(gm)] == snapshot(["Tracked", "FusedConv2d", "Tracked"])


class Inner(Fixed):
    """Nine tenths of the recorded range."""

    def start(self, found: Range) -> None:
        """Keep the inner part."""
        super().start(Range(found.low * 0.9, found.high * 0.9))


class TwiceTheMean(Quantizer):
    """A weight's step from its mean magnitude."""

    @classmethod
    def of(cls, spec: QuantSpec, weight: Tensor, range_name: str | None = None) -> Quantizer:
        """Return the quantizer of a weight."""
        return cls(spec, range_name)

    def record(self, x: Tensor, site: int) -> None:
        """Do nothing."""

    def observe(self, x: Tensor, site: int) -> None:
        """Do nothing."""

    def grid(self, x: Tensor, gain: Tensor | None, floor: Tensor | None) -> Grid:
        """Return the grid."""
        amplitude = 2 * x.abs().mean()
        return grid_from_range(-amplitude, amplitude, self.spec, floor)


def test_a_quantizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ACTIVATION_QUANTIZERS, "inner", Inner)
    monkeypatch.setitem(WEIGHT_QUANTIZERS, "twice_the_mean", TwiceTheMean)
    layer = LayerConfig(activation_quantizer="inner", weight_quantizer="twice_the_mean", per_channel=False)
    gm: Any = qatc.prepare(randomise(Classifier()), images(), config=QConfig(layer))
    qatc.calibrate(gm, [images()], progress=False)
    fixed = QConfig(LayerConfig(activation_quantizer="fixed"))
    wide: Any = qatc.prepare(randomise(Classifier()), images(), config=fixed)
    qatc.calibrate(wide, [images()], progress=False)
    assert float(gm.x_q.high) < float(wide.x_q.high)
    assert isinstance(gm.fc.weight_quantizer, TwiceTheMean)
    gm.train()(images()).sum().backward()
    assert all(p.grad is not None for p in gm.parameters())


DSP = Target(
    name="dsp",
    summary="a made-up processor: signed activations, weights with one scale, sigmoid from a table",
    activation=ActivationRule(signed=True, symmetric=True),
    weight=WeightRule(narrow=False, per_channel=frozenset({"Gemm"})),
    ops={
        "Conv": OpRule(inputs="quantized", output="quantized", final=True),
        "Gemm": OpRule(inputs="quantized"),
        "MaxPool": OpRule(output="same"),
        "Sigmoid": OpRule(inputs="quantized", output="quantized"),
        "Reshape": OpRule(reason="this one reshapes in float"),
    },
    file=FileRule(opset=(13, 21, 18), bias="float", low_bits="clip_values", mean="ReduceMean"),
    verify=VerifyRule(runtimes=("onnxruntime-unoptimized",), differing=1e-5),
)


def test_a_target() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.fc = conv(3, 4), nn.MaxPool2d(2), nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Any:
            return self.fc(self.pool(torch.sigmoid(self.conv(x))).flatten(1))

    gm: Any = qatc.prepare(randomise(Net()), images(), target=DSP)
    assert gm.prepared_for.target is DSP
    assert str(gm.report) == snapshot("""\
op       kind     weight  inputs  output  why float
---------------------------------------------------
conv     Conv     s8      s8      s8
sigmoid  Sigmoid          s8      s8
pool     MaxPool          s8
flatten  Reshape          s8              this one reshapes in float
fc       Gemm     s8/ch0  s8
4 of 5 ops quantized (2 with weights); float: Reshape\
""")
    assert gm.conv.weight_quantizer.spec == QuantSpec()
    assert gm.fc.weight_quantizer.spec == QuantSpec(axis=0)
    qatc.calibrate(gm, [images()], progress=False)
    gm.train()(images()).sum().backward()


def test_a_target_of_ones_own_goes_with_its_checkpoint_into_the_file(tmp_path: Path) -> None:
    own = replace(DSP, pow2=True, runtime_options={"shift": 1}, options_suffix=".dsp.json")
    model = nn.Sequential(conv(3, 4), nn.Sigmoid(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5))
    gm = qatc.prepare(randomise(model), images(), target=own)
    qatc.calibrate(gm, [images()], progress=False)
    qatc.save(gm, tmp_path / "m.pt")
    loaded = qatc.load(tmp_path / "m.pt")
    assert loaded.prepared_for is not None
    assert loaded.prepared_for.target == own
    assert "every scale is a power of two: dsp has no others" in str(loaded.report)
    np.savez(tmp_path / "x.npz", input=images(seed=3).numpy())
    arguments = [tmp_path / "m.pt", "--target", "dsp", "-o", tmp_path / "m.onnx", "--verify", tmp_path / "x.npz"]
    assert lower_main([str(argument) for argument in arguments]) == 0
    assert json.loads((tmp_path / "m.dsp.json").read_text()) == {"shift": 1}
    assert lower_main([str(tmp_path / "m.pt"), "--target", "tidl"]) == 2


def test_a_target_is_data_that_another_is_made_from() -> None:
    no_pools = replace(DSP, ops={k: v for k, v in DSP.ops.items() if k != "MaxPool"})
    gm = qatc.prepare(nn.Sequential(conv(3, 4), nn.MaxPool2d(2), conv(4, 4)), images(), target=no_pools)
    assert {row.name: row.reason for row in gm.report.rows if row.reason} == snapshot(
        {"1": "MaxPool has no integer form on dsp"}
    )
