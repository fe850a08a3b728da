"""Activations x * f(x) as each target has them: as one op, or as two."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.config import LayerConfig, QConfig, Rule
from qatc.errors import ConfigError
from qatc.lowering import lowered_proto, verify
from qatc.targets import TARGETS
from tests.models import conv, images, randomise
from tests.prepared import placed, reasons, specs


class Called(nn.Sequential):
    """The activation as a module, which another convolution reads."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__(conv(3, 4), act, conv(4, 4))


class WrittenOut(nn.Module):
    """The activation as a product, in either order; the factor may be read once more."""

    def __init__(self, first: bool = True, factor: type[nn.Module] = nn.Sigmoid, again: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.f = conv(3, 4), conv(4, 4), factor()
        self.first, self.again = first, again

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.f(x)
        out: Tensor = self.b(x * y if self.first else y * x)
        return out + y if self.again else out


def kinds(gm: qatc.PreparedModel) -> dict[str, str]:
    """Return the operator that each op with no weights is."""
    return {row.name: row.kind for row in gm.report.rows if not row.weight}


def test_silu_is_a_sigmoid_and_a_product_on_onnxruntime_under_its_own_name() -> None:
    gm = placed(Called(nn.SiLU()))
    assert kinds(gm) == snapshot({"1_sigmoid": "Sigmoid", "1": "Mul"})
    assert {name: str(spec) for name, spec in specs(gm).items() if "weight" not in name} == snapshot(
        {"input_q": "u8/asym", "0_q": "u8/asym", "1_sigmoid_q": "u8", "1_q": "u8/asym", "2_q": "u8/asym"}
    )
    assert reasons(gm) == {}


def test_what_is_asked_of_the_whole_is_asked_of_both() -> None:
    config = QConfig(rules=(Rule("type:SiLU", activation_bits=6), Rule("2", activation_bits=6)))
    bits = {name: spec.bits for name, spec in specs(placed(Called(nn.SiLU()), config=config)).items()}
    assert {name: bits[name] for name in ("0_q", "1_sigmoid_q", "1_q")} == {"0_q": 6, "1_sigmoid_q": 6, "1_q": 6}
    left = placed(Called(nn.SiLU()), config=QConfig(rules=(Rule("1", quantize=False),)))
    assert kinds(left) == {"1": "Swish"}
    assert reasons(left) == {"1": "excluded by a rule of the configuration"}


@pytest.mark.parametrize("target", ["onnxruntime", "qnn"])
@pytest.mark.parametrize("config", ["w8a8", "w8a8-pow2"])
def test_the_parts_compute_the_whole_and_their_codes_are_the_files(target: str, config: str) -> None:
    model = randomise(Called(nn.SiLU()))
    gm = qatc.prepare(model, images(), target, config, verify=True)
    qatc.calibrate(gm, [images()], progress=False)
    check = verify(gm, lowered_proto(gm), {"input": images(seed=1).numpy()})
    assert check.passed, str(check)
    with qatc.float_mode(gm), torch.no_grad():
        torch.testing.assert_close(gm.eval()(images()), model.eval()(images()))


@pytest.mark.parametrize("first", [True, False])
def test_a_product_with_a_sigmoid_is_silu_where_the_target_has_that_as_one(first: bool) -> None:
    gm = placed(WrittenOut(first), "tidl")
    assert kinds(gm) == {"mul": "Swish"}
    with qatc.float_mode(gm), torch.no_grad():
        torch.testing.assert_close(gm.eval()(images()), randomise(WrittenOut(first)).eval()(images()))
    assert kinds(placed(WrittenOut(first), "onnxruntime")) == {"f": "Sigmoid", "mul": "Mul"}
    for target in ("tidl", "qnn"):
        assert kinds(placed(WrittenOut(first, nn.Hardsigmoid), target)) == {"mul": "HardSwish"}


def test_two_ops_stay_two_where_something_else_reads_the_factor_or_one_is_excluded() -> None:
    assert kinds(placed(WrittenOut(again=True), "tidl")) == {"f": "Sigmoid", "mul": "Mul", "add": "Add"}
    config = QConfig(rules=(Rule("f", quantize=False),))
    assert kinds(placed(WrittenOut(), "tidl", config)) == {"f": "Sigmoid", "mul": "Mul"}

    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(F.max_pool2d(x, 3, 1, 1))

    assert kinds(placed(nn.Sequential(conv(3, 4), Gate()), "tidl"))["1.mul"] == "Mul"


def test_a_target_that_asks_for_parts_that_are_not_known_is_refused() -> None:
    own = replace(TARGETS["onnxruntime"], parts=frozenset({"Gelu"}))
    with pytest.raises(ConfigError, match="unknown operator with parts 'Gelu'"):
        qatc.prepare(Called(nn.GELU()), images(), own, QConfig(LayerConfig()))
