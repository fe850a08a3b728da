from typing import Any

import torch
from inline_snapshot import snapshot
from torch import nn

import qatc
from qatc.config import config_of
from qatc.invariants import POW2_SCALES
from qatc.passes import (
    ConstrainPow2Scales,
    InsertQuantizers,
)
from qatc.quantizers import Quantizer
from qatc.targets import TARGETS
from tests.check_pass import check_pass
from tests.models import Classifier, images
from tests.prepared import BEFORE_QUANTIZERS

ONNXRUNTIME = TARGETS["onnxruntime"]
BEFORE = (*BEFORE_QUANTIZERS, InsertQuantizers(ONNXRUNTIME, config_of("w8a8")))


def test_scales_round_up() -> None:
    check_pass(
        ConstrainPow2Scales(),
        Classifier(),
        snapshot("""\
-%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
-%conv = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1 act=ReLU6  w=s8/ch0  # conv
-%conv_q = Tracked(%conv) : f32[N,4,8,8]  u8  # conv_q
+%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym/pow2  # x_q
+%conv = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1 act=ReLU6  w=s8/ch0/pow2  # conv
+%conv_q = Tracked(%conv) : f32[N,4,8,8]  u8/pow2  # conv_q
-%conv2 = FusedConv2d(%pool, grid=%conv_q) : f32[N,4,4,4]  k3 p1 act=ReLU  w=s8/ch0  # conv2
-%conv2_q = Tracked(%conv2) : f32[N,4,4,4]  u8  # conv2_q
+%conv2 = FusedConv2d(%pool, grid=%conv_q) : f32[N,4,4,4]  k3 p1 act=ReLU  w=s8/ch0/pow2  # conv2
+%conv2_q = Tracked(%conv2) : f32[N,4,4,4]  u8/pow2  # conv2_q
-%fc = FusedLinear(%flatten, grid=%conv2_q) : f32[N,5]  w=s8/ch0  # fc
+%fc = FusedLinear(%flatten, grid=%conv2_q) : f32[N,5]  w=s8/ch0/pow2  # fc
"""),
        before=BEFORE,
    )


def test_it_also_holds_ranges_that_are_there_already() -> None:
    for config in ("w8a8", "w4a4"):
        model = qatc.prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3)), images(), config=config)
        qatc.calibrate(model, [images()], progress=False)
        assert ConstrainPow2Scales().run(model)
        assert not list(POW2_SCALES.check(model))
        for name, module in model.named_modules():
            if isinstance(module, Quantizer) and name.endswith("_q"):
                grid = module.checked_grid(torch.empty(0))
                assert float(torch.log2(grid.scale)) % 1 == 0
                assert int(grid.zero_point) % 2 == 0


def test_scales_are_rounded_as_the_configuration_asks() -> None:
    gm: Any = qatc.prepare(Classifier(), images(), config=qatc.QConfig(pow2="round"))
    assert str(gm.x_q.spec) == "u8/asym/pow2-round"
    assert str(gm.conv_q.spec) == "u8/pow2-round"
    assert str(gm.conv.weight_quantizer.spec) == "s8/ch0/pow2-round"


def test_the_preset_asks_for_it() -> None:
    names = [step.name for step in qatc.passes.qat_pipeline(ONNXRUNTIME, config_of("w8a8-pow2"))]
    assert names[-2:] == ["constrain-pow2-scales", "leave-clips"]
    assert "constrain-pow2-scales" not in [s.name for s in qatc.passes.qat_pipeline(ONNXRUNTIME, config_of("w8a8"))]
