from dataclasses import replace
from typing import Any

import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.config import config_of
from qatc.lowering import lowered_proto, verify
from qatc.passes import InsertQuantizers, ShareScales
from qatc.quantizers import Tracked
from qatc.targets import TARGETS, FixedGrid, OpRule, Target
from tests.check_pass import check_pass
from tests.models import Concat, ResidualIdentity, conv, images
from tests.prepared import BEFORE_QUANTIZERS


def share(model: nn.Module, expect: str, target: Target = TARGETS["tensorrt"], config: str = "w8a8") -> nn.Module:
    """Check the pass behind those before it."""
    insert = InsertQuantizers(target, config_of(config))
    return check_pass(ShareScales(target), model, expect, before=(*BEFORE_QUANTIZERS, insert))


def test_the_grids_around_a_concatenation_become_one() -> None:
    gm = share(
        Concat(),
        snapshot("""\
-%a_q = Tracked(%a) : f32[N,4,8,8]  s8  # a_q
+%a_q = Tracked(%a, 0) : f32[N,4,8,8]  s8  # a_q
-%concat_q = Tracked(%cat) : f32[N,12,8,8]  s8  # concat_q
-%head = FusedConv2d(%concat_q, grid=%concat_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # head
+%concat_q = Tracked(%cat, 1) : f32[N,12,8,8]  s8  # a_q
+%head = FusedConv2d(%concat_q, grid=%a_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # head
"""),
    )
    quantizer = gm.get_submodule("a_q")
    assert isinstance(quantizer, Tracked)
    assert quantizer.sites == 2
    assert [n for n, m in gm.named_modules() if isinstance(m, Tracked)] == ["x_q", "a_q"]


def test_it_is_left_where_the_target_rescales_each_input() -> None:
    share(Concat(), snapshot(""), TARGETS["onnxruntime"])


def test_a_network_without_concatenation_is_left() -> None:
    share(ResidualIdentity(), snapshot(""))


def test_concatenations_of_concatenations_share_one_grid() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = conv(3, 4), conv(7, 4), conv(11, 4), conv(15, 4)

        def forward(self, x: Tensor) -> Any:
            x = torch.cat([x, self.a(x)], 1)
            x = torch.cat([x, self.b(x)], 1)
            x = torch.cat([x, self.c(x)], 1)
            return self.d(x)

    share(
        Dense(),
        snapshot("""\
-%x_q = Tracked(%x) : f32[N,3,8,8]  s8  # x_q
+%x_q = Tracked(%x, 0) : f32[N,3,8,8]  s8  # x_q
-%concat_q = Tracked(%cat) : f32[N,7,8,8]  s8  # concat_q
-%b = FusedConv2d(%concat_q, grid=%concat_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # b
+%concat_q = Tracked(%cat, 1) : f32[N,7,8,8]  s8  # x_q
+%b = FusedConv2d(%concat_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # b
-%concat_1_q = Tracked(%cat_1) : f32[N,11,8,8]  s8  # concat_1_q
-%c = FusedConv2d(%concat_1_q, grid=%concat_1_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # c
+%concat_1_q = Tracked(%cat_1, 2) : f32[N,11,8,8]  s8  # x_q
+%c = FusedConv2d(%concat_1_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # c
-%concat_2_q = Tracked(%cat_2) : f32[N,15,8,8]  s8  # concat_2_q
-%d = FusedConv2d(%concat_2_q, grid=%concat_2_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # d
+%concat_2_q = Tracked(%cat_2, 3) : f32[N,15,8,8]  s8  # x_q
+%d = FusedConv2d(%concat_2_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # d
"""),
    )


def test_the_shared_range_covers_every_call_site() -> None:
    model = qatc.prepare(Concat(), images(), "tensorrt")
    qatc.calibrate(model, [images()], progress=False)
    shared = model.get_submodule("a_q")
    assert isinstance(shared, Tracked)
    first, second = (shared.recorder(site).range() for site in range(2))
    assert float(first.low) == 0.0  # behind a ReLU
    assert float(second.low) < 0.0
    covered = 127 * shared.checked_grid(torch.empty(0)).scale
    assert float(torch.maximum(-second.low, torch.maximum(first.high, second.high))) <= float(covered) * (1 + 2**-22)


def test_a_concatenation_has_the_grid_that_all_of_its_tensors_can_have() -> None:
    """One that needs its zero point at 0 makes all signed; one whose grid the target gives has the common one."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.tail = conv(3, 4), conv(3, 4), conv(3, 4), conv(12, 4)

        def forward(self, x: Tensor) -> Any:
            gate, b = torch.sigmoid(self.a(x)), self.b(x)
            return self.tail(torch.cat([gate, b, torch.relu(self.c(x))], 1)) * b

    target = TARGETS["onnxruntime"]
    ops = {
        **target.ops,
        "Concat": OpRule(output="same"),
        "Sigmoid": replace(target.ops["Sigmoid"], fixed=(FixedGrid(8, 1 / 255, 0),)),
    }
    free, needy = (
        replace(target, concat="shared", ops={**ops, "Mul": replace(ops["Mul"], grid=grid)})
        for grid in ("any", "symmetric")
    )
    for own, spec in ((free, "u8/asym"), (needy, "s8")):
        gm = qatc.prepare(Net(), images(), own)
        quantizer = gm.get_submodule("sigmoid_q")
        assert isinstance(quantizer, Tracked)
        assert (str(quantizer.spec), quantizer.sites) == (spec, 4)
        qatc.calibrate(gm, [images()], progress=False)
        assert verify(gm, lowered_proto(gm), {"x": images(seed=1).numpy()}).passed
