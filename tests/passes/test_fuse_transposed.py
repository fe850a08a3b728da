"""Transposed convolutions, and subclasses of layers: what fuses, and what it computes."""

from typing import Any

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

from qatc.config import QConfig, Rule
from qatc.modules.fused_forms import fused_form
from qatc.modules.transposed import FusedConvTranspose2d
from qatc.passes import DedupModules, Functionalize, FunctionalToModule, FuseConvBnAct
from qatc.targets import TARGETS
from tests.check_pass import check_pass
from tests.models import ConvBnAct, conv, images
from tests.prepared import every_target, placed, reasons, specs

BEFORE = (DedupModules(), Functionalize(), FunctionalToModule())


class Up(nn.Module):
    """Down by a convolution and up again, to the size that the input has."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.down, self.act = conv(3, 8, stride=2), nn.ReLU()
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, groups=groups)
        self.bn, self.relu, self.head = nn.BatchNorm2d(4), nn.ReLU(), conv(4, 3)

    def forward(self, x: Tensor) -> Any:
        y = self.act(self.down(x))
        return self.head(self.relu(self.bn(self.up(y, output_size=x.shape[2:]))))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_transposed_convolution_takes_its_bn_in(groups: int) -> None:
    """The output channel g * (out / groups) + j is column j of the rows of group g."""
    layer = nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, groups=groups, output_padding=1, dilation=2)
    attributes = f"k3 s2 p1 output_padding=(1, 1){f' g{groups}' if groups > 1 else ''} d2"
    gm = check_pass(
        FuseConvBnAct(),
        ConvBnAct(layer, nn.BatchNorm2d(8), nn.ReLU6()),
        f"""\
-%conv = ConvTranspose2d(%x) : f32[N,8,12,12]  {attributes}  # conv
-%bn = BatchNorm2d(%conv) : f32[N,8,12,12]  # bn
-%act = ReLU6(%bn) : f32[N,8,12,12]  # act
-return %act
+%conv = FusedConvTranspose2d(%x, bn=%bn) : f32[N,8,12,12]  {attributes} act=ReLU6  # conv
+return %conv
""",
        images(4, 4, 5, 5),
        before=BEFORE,
    )
    fused, bn = gm.get_submodule("conv"), gm.get_submodule("bn").eval()
    assert isinstance(fused, FusedConvTranspose2d)
    assert isinstance(bn, nn.BatchNorm2d)
    x = images(2, 4, 5, 5)
    torch.testing.assert_close(fused.compute(x, *fused.fold(bn)[:2]), bn(layer(x)), rtol=1e-4, atol=1e-5)


def test_of_one_and_three_dimensions_too() -> None:
    line = ConvBnAct(nn.ConvTranspose1d(6, 4, 3, bias=False), nn.BatchNorm1d(4), nn.ReLU())
    check_pass(
        FuseConvBnAct(),
        line,
        snapshot("""\
-%conv = ConvTranspose1d(%x) : f32[N,4,7]  k3  # conv
-%bn = BatchNorm1d(%conv) : f32[N,4,7]  # bn
-%act = ReLU(%bn) : f32[N,4,7]  # act
-return %act
+%conv = FusedConvTranspose1d(%x, bn=%bn) : f32[N,4,7]  k3 act=ReLU  # conv
+return %conv
"""),
        images(8, 6, 5),
        before=BEFORE,
    )
    volume = ConvBnAct(nn.ConvTranspose3d(2, 4, 2, stride=2, groups=2), nn.BatchNorm3d(4))
    check_pass(
        FuseConvBnAct(),
        volume,
        snapshot("""\
-%conv = ConvTranspose3d(%x) : f32[N,4,6,6,6]  k2 s2 g2  # conv
-%bn = BatchNorm3d(%conv) : f32[N,4,6,6,6]  # bn
-return %bn
+%conv = FusedConvTranspose3d(%x, bn=%bn) : f32[N,4,6,6,6]  k2 s2 g2  # conv
+return %conv
"""),
        images(4, 2, 3, 3, 3),
        before=BEFORE,
    )


def test_the_size_asked_for_goes_by_its_name() -> None:
    gm = check_pass(
        FuseConvBnAct(),
        Up(2),
        snapshot("""\
-%down = Conv2d(%x) : f32[N,8,4,4]  k3 s2 p1  # down
-%act = ReLU(%down) : f32[N,8,4,4]  # act
+%down = FusedConv2d(%x) : f32[N,8,4,4]  k3 s2 p1 act=ReLU  # down
-%up = ConvTranspose2d(%act, output_size=(%size, %size_1)) : f32[N,4,8,8]  k3 s2 p1 g2  # up
-%bn = BatchNorm2d(%up) : f32[N,4,8,8]  # bn
-%relu = ReLU(%bn) : f32[N,4,8,8]  # relu
-%head = Conv2d(%relu) : f32[N,3,8,8]  k3 p1  # head
+%up = FusedConvTranspose2d(%down, output_size=(%size, %size_1), bn=%bn) : f32[N,4,8,8]  k3 s2 p1 g2 act=ReLU  # up
+%head = Conv2d(%up) : f32[N,3,8,8]  k3 p1  # head
"""),
        before=BEFORE,
    )
    for size in (8, 7):
        assert gm.eval()(images(2, 3, size, size)).shape[-1] == size


def test_a_size_given_by_its_place_is_named_where_nothing_fuses() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = conv(3, 8, stride=2), nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Any:
            return self.up(self.down(x), x.shape[2:])

    check_pass(
        FuseConvBnAct(),
        Alone(),
        snapshot("""\
-%up = ConvTranspose2d(%down, (%size, %size_1)) : f32[N,4,8,8]  k3 s2 p1  # up
+%up = ConvTranspose2d(%down, output_size=(%size, %size_1)) : f32[N,4,8,8]  k3 s2 p1  # up
"""),
        before=BEFORE,
    )


@every_target
def test_it_is_quantized_along_axis_1_and_with_groups_by_one_scale(target: str) -> None:
    channels = "ConvTranspose" in TARGETS[target].weight.per_channel
    alone, grouped = (specs(placed(Up(groups), target))["up.weight_quantizer"] for groups in (1, 2))
    assert (alone.axis, grouped.axis) == (1 if channels else None, None)
    assert reasons(placed(Up(), target)) == {}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("quantizer", ["tracked", "lsq"])
def test_training_with_batch_statistics_and_frozen_ones_uses_the_same_weight_codes(groups: int, quantizer: str) -> None:
    gm = placed(Up(groups), "tensorrt", QConfig(rules=(Rule("up", weight_quantizer=quantizer),)))
    layer, bn = gm.get_submodule("up"), gm.get_submodule("bn")
    assert isinstance(layer, FusedConvTranspose2d)
    assert isinstance(bn, nn.BatchNorm2d)
    assert layer.weight_quantizer is not None
    assert bn.running_var is not None
    factor = layer.over_weight(bn.weight * (bn.running_var + bn.eps).rsqrt(), layer.weight)
    deployed, _ = layer.deployed(layer.fold(bn), None)
    torch.testing.assert_close(layer.unfolded_weight(bn) * factor, deployed, rtol=1e-5, atol=1e-6)
    assert (
        len(torch.unique((deployed / layer.weight_quantizer.grid(*layer.fold(bn)[::2], None).scale.amin()).round())) > 9
    )


class Renamed(nn.Linear):
    """A subclass that computes what its base does."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.note = "the user's"

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def own_method(self) -> None: ...


class Scaled(nn.Linear):
    """One that does not."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = super().forward(2 * x)
        return result


class Padded(nn.Conv2d):
    """One whose inner method differs."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
        return super()._conv_forward(x, weight.clamp(-1, 1), bias)


class Computed(nn.Linear):
    """One whose weight is a property."""

    @property
    def weight(self) -> Tensor:
        return torch.ones(4, 4)

    @weight.setter
    def weight(self, value: Tensor) -> None: ...


@pytest.mark.parametrize("kind", [Scaled, Padded, Computed, Renamed])
def test_only_subclasses_that_compute_what_their_base_does_fuse(kind: Any) -> None:
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    assert (fused_form(layer) is not None) == (kind is Renamed)


def test_torchs_own_subclasses_fuse() -> None:
    layer = nn.modules.linear.NonDynamicallyQuantizableLinear(4, 4)
    assert type(fused_form(layer)).__name__ == "FusedLinear"
    parametrized = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    assert fused_form(parametrized) is None


def test_tensorrt_names_a_relu_behind_it_as_fused() -> None:
    assert "Relu" in TARGETS["tensorrt"].epilogues["ConvTranspose"]
