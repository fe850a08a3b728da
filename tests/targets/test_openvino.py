"""Files for OpenVINO, run by OpenVINO: weights in 8 bits, the simulation's codes, and what the rules are for."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.errors import ConfigError
from qatc.lowering import Lowered, Verification, lowered_proto, verify
from qatc.runtimes.openvino import LayerPrecision, left_in_float, precisions
from qatc.targets import TARGETS, ActivationRule, OpRule, Target
from tests.models import conv, images, randomise
from tests.prepared import placed, reasons, specs
from tests.torchvision_networks import network

OPENVINO = TARGETS["openvino"]


def block(inputs: int, outputs: int, activation: Callable[[], nn.Module] = nn.ReLU, **given: Any) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, bias=False, **given), nn.BatchNorm2d(outputs), activation())


class Residual(nn.Module):
    """A skip that is an activation, then one with a convolution of its own, then a dropped branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a1, self.a2 = block(3, 16), block(16, 16), block(16, 16, nn.Identity)
        self.b1, self.b2 = block(16, 24), block(24, 24, nn.Identity)
        self.down, self.drop = nn.Conv2d(16, 24, 1), nn.Dropout(0.2)
        self.c, self.head = block(24, 24, nn.Identity), nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        x = F.relu(self.a2(self.a1(x)) + x)
        x = self.b2(self.b1(x)) + self.down(x)
        x = self.drop(self.c(x)) + x
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Mobile(nn.Module):
    """Depthwise convolutions, squeeze and excitation, SiLU, HardSwish, a linear bottleneck."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = block(3, 16, nn.SiLU), block(16, 16, nn.SiLU, groups=16)
        self.squeeze, self.excite, self.project = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1), block(16, 16, nn.Identity)
        self.last, self.head = block(16, 16, nn.Hardswish), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        y = self.depthwise(x)
        gate = self.excite(F.silu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))).sigmoid()
        x = x + self.project(y * gate)
        return self.head(self.last(x).mean((2, 3)))


class UNet(nn.Module):
    """Pools, transposed convolutions (grouped too, and behind negative values), upsampling, concatenations, a split."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = block(3, 8), block(8, 16), conv(16, 16), block(16, 8)
        self.up, self.grouped = nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ConvTranspose2d(8, 8, 3, 2, 1, 1, groups=2)
        self.join, self.out = block(32, 8, nn.ReLU6), conv(8, 4)

    def forward(self, x: Tensor) -> Any:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        up = F.relu(self.up(self.c(F.avg_pool2d(b, 2))))
        left, right = self.d(b).chunk(2, 1)
        y = torch.cat([up, F.relu(self.grouped(up))[..., ::2, ::2], left, right, self.d(b)], 1)
        return self.out(F.interpolate(self.join(y), scale_factor=2.0))


class Attention(nn.Module):
    """A transformer's block: norms, heads by hand, a class token, GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.n1, self.n2 = nn.Conv2d(3, 32, 4, 4), nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out, self.f1, self.f2 = (
            nn.Linear(32, 96),
            nn.Linear(32, 32),
            nn.Linear(32, 64),
            nn.Linear(64, 32),
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Any:
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.n1(x)).reshape(len(x), -1, 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-2, -1)) * 8**-0.5).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).flatten(2))
        x = x + self.f2(F.gelu(self.f1(self.n2(x))))
        return self.head(x.mean(1))


NETWORKS = {kind.__name__: kind for kind in (Residual, Mobile, UNet, Attention)}


def pictures(n: int, size: int, seed: int) -> Tensor:
    """Return images in steps of 1/64: with scales of powers of two none is a rounding away from a tie."""
    return (images(n, 3, size, size, seed=seed) * 64).round() / 64


def checked(
    model: nn.Module, config: str, target: Target = OPENVINO, size: int = 16, n: int = 6
) -> tuple[Verification, list[LayerPrecision]]:
    """Return the verification on OpenVINO, and the layers that it runs."""
    gm = qatc.prepare(model.eval(), pictures(2, size, 1), target, config)
    qatc.calibrate(gm, [pictures(8, size, 1)], progress=False)
    lowered = lowered_proto(gm.eval())
    return verify(gm, lowered, {input_name(lowered): pictures(n, size, 2).numpy()}, runtime="openvino"), precisions(
        lowered.proto
    )


def input_name(lowered: Lowered) -> str:
    name: str = lowered.proto.graph.input[0].name
    return name


@pytest.mark.parametrize(("name", "config"), [
    *((name, config) for name in NETWORKS for config in ("w8a8-pow2", "w8a8")), ("UNet", "w4a4-pow2"),
])  # fmt: skip
def test_a_network_runs_in_integers_with_the_codes_that_were_simulated(name: str, config: str) -> None:
    check, layers = checked(randomise(NETWORKS[name](), seed=3), config)
    assert check.passed, check
    assert check.agreeing == 1.0
    assert left_in_float(layers) == []
    if config.endswith("pow2"):
        assert (check.differing, check.differing_end_to_end) == (0, 0)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_no_code_of_a_whole_network_differs_with_powers_of_two(name: str) -> None:
    torch.manual_seed(0)
    check, layers = checked(network(name), "w8a8-pow2", size=64, n=2)
    assert (check.differing, check.differing_end_to_end, check.agreeing) == (0, 0, 1.0)
    assert left_in_float(layers) == []
    assert sum(layer.kind == "Convolution" for layer in layers) == {"resnet18": 20, "mobilenet_v2": 52}[name]


def test_grids_stand_where_the_plugin_wants_them() -> None:
    found = specs(placed(UNet(), "openvino", inputs=images(2, 3, 16, 16)))
    assert {name: str(spec) for name, spec in found.items() if "weight" not in name} == snapshot(
        {
            "a.0_q": "u8",
            "b.0_q": "u8",
            "join.0_q": "u8",
            "x_q": "u8/asym",
            "avg_pool2d_q": "u8",
            "c_q": "u8/asym",
            "up_q": "u8",
            "grouped_q": "u8",
            "concat_q": "u8",
        }
    )


def test_the_report_says_what_stays_in_float_and_why() -> None:
    assert reasons(placed(Mobile(), "openvino", inputs=images(2, 3, 16, 16))) == snapshot(
        {"mul": "runs in float32; a grid on its operands saves no time"}
    )


def test_operands_of_a_matrix_product_are_signed() -> None:
    found = specs(placed(Attention(), "openvino", inputs=images(2, 3, 16, 16)))
    assert {name for name, spec in found.items() if spec.signed and "weight" not in name} == snapshot(
        {"softmax_q", "transpose_1_q", "unbind_2_q", "unbind_q"}
    )


# What the rules are for: the target without one of them, and without the linter that says so, on the same runtime.
UNLINTED = replace(OPENVINO, lint=())


def without(**ops: OpRule) -> Target:
    return replace(UNLINTED, ops={**OPENVINO.ops, **ops})


SIGNED = replace(UNLINTED, activation=ActivationRule(signed=True, symmetric=True))
NATIVE = replace(UNLINTED, file=replace(OPENVINO.file, transposed="ConvTranspose"))


def test_a_product_of_unsigned_codes_runs_in_float32() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Any:
            return self.a(x.flatten(1, 2)).transpose(1, 2) @ self.b(x.flatten(1, 2))

    def in_float(target: Target) -> list[str]:
        return [layer.kind for layer in left_in_float(checked(randomise(Product()), "w8a8", target)[1])]

    assert in_float(without(MatMul=OpRule(inputs="quantized"))) == ["MatMul"]
    assert in_float(OPENVINO) == []


def test_grids_on_both_inputs_of_a_sum_are_dropped_by_the_file_as_it_is() -> None:
    """With its codes as outputs the file has them all right, and the outputs differ."""
    both = without(Add=OpRule(inputs="quantized", output="quantized"))
    check, layers = checked(randomise(Residual(), seed=3), "w8a8-pow2", both)
    assert left_in_float(layers) == []
    assert check.differing_end_to_end == 0
    assert check.agreeing <= 0.5
    assert not check.passed


def test_concatenated_signed_codes_are_something_else() -> None:
    class Cat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = block(3, 16), block(16, 16), conv(16, 8), conv(40, 8)
            self.e = conv(8, 4)

        def forward(self, x: Tensor) -> Any:
            a = self.a(x)
            b = self.b(a)
            return self.e(self.d(torch.cat([a, b, self.c(b)], 1)))

    check, _ = checked(randomise(Cat(), seed=3), "w8a8-pow2", SIGNED)
    assert check.differing_end_to_end > 1000
    assert checked(randomise(Cat(), seed=3), "w8a8-pow2")[0].differing_end_to_end == 0


@pytest.mark.parametrize(("groups", "negative"), [(2, False), (1, True)])
def test_a_transposed_convolution_written_as_such_may_run_in_float32(groups: int, negative: bool) -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.up, self.b = conv(3, 8), nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=groups), conv(8, 4)

        def forward(self, x: Tensor) -> Any:
            y = self.a(x)
            return self.b(F.relu(self.up(y if negative else F.relu(y))))

    def in_float(target: Target) -> list[str]:
        return [layer.kind for layer in left_in_float(checked(randomise(Up()), "w8a8", target)[1])]

    assert in_float(NATIVE) == ["Deconvolution"]
    assert in_float(OPENVINO) == []


def test_codes_of_more_than_8_bits_are_refused() -> None:
    with pytest.raises(ConfigError, match="openvino has no codes of 16 bits"):
        qatc.prepare(conv(3, 4), images(), "openvino", qatc.QConfig(qatc.LayerConfig(activation_bits=16)))


def test_a_float_layer_is_reported_by_the_name_of_its_op() -> None:
    config = qatc.QConfig(rules=(qatc.Rule("a2.*", quantize=False),))
    gm = qatc.prepare(randomise(Residual()).eval(), pictures(2, 16, 1), "openvino", config)
    qatc.calibrate(gm, [pictures(2, 16, 1)], progress=False)
    (layer,) = left_in_float(precisions(lowered_proto(gm.eval()).proto))
    assert (layer.kind, layer.precision) == ("Convolution", "f32")
    assert any(name.startswith("a2.0") for name in layer.fused)
