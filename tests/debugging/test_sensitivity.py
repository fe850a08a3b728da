"""Which layers quantization hurts, and what keeping them at more bits brings."""

import json
import math

import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.config import LayerConfig, QConfig
from qatc.debugging import LayerDamage
from qatc.debugging.proposal import chosen
from qatc.errors import CalibrationError, ConfigError
from qatc.prepared import PreparedModel
from qatc.recording import quantizers
from tests.debugging.networks import Residual, batches, fixed, ready
from tests.lowering.networks import calibrated, data
from tests.models import images, randomise

LAYERS = ["stem", "a", "b", "hidden", "head"]


def outputs(gm: PreparedModel) -> Tensor:
    with torch.no_grad():
        return torch.cat([gm(batch) for batch in batches()]).double()


def noise(gm: PreparedModel) -> float:
    """Return the power of the outputs' error as a share of theirs."""
    gm.eval()
    with qatc.float_mode(gm):
        wanted = outputs(gm)
    return float((outputs(gm) - wanted).square().sum() / wanted.square().sum())


def spoilt() -> nn.Module:
    """Return the network with two layers that few bits do not suit: the weights of a dead input reach far out."""
    model = randomise(Residual())
    assert isinstance(model, Residual)
    with torch.no_grad():
        for dead in (model.norm_a, model.norm):
            dead.bias.data[0] = -20
        model.b.weight[0] = 0
        nn.init.constant_(model.b.bias[:1], -1)  # type: ignore[index]
        model.b.weight[1:, 0] *= 10
        model.hidden.weight[:, 0] *= 10
        for layer in (model.hidden, model.head):
            layer.bias.mul_(0.1)
    return model


def w4a4(*rules: qatc.Rule) -> QConfig:
    return QConfig(LayerConfig(weight_bits=4, activation_bits=4, weight_range="absmax"), rules)


def test_damage_is_that_of_the_layer_alone() -> None:
    gm = ready(fixed(bits=4))
    found = qatc.sensitivity(gm, batches(), progress=False)
    assert found.damage == pytest.approx(noise(gm), rel=1e-4)
    assert sorted(row.layer for row in found.rows) == sorted(LAYERS)
    own = {"hidden.weight_quantizer", "mean_q", "hidden_q"}
    for name, quantizer in quantizers(gm):
        quantizer.enabled = name in own
    with torch.no_grad():
        alone = outputs(gm)
    for _, quantizer in quantizers(gm):
        quantizer.enabled = True
    with qatc.float_mode(gm):
        wanted = outputs(gm)
    damage = next(row.damage for row in found.rows if row.layer == "hidden")
    assert damage == pytest.approx(float((alone - wanted).square().sum() / wanted.square().sum()), rel=1e-4)


def test_relief_is_what_goes_when_one_layer_alone_is_float() -> None:
    gm = ready(fixed(bits=4))
    found = qatc.sensitivity(gm, batches(), relief=True, progress=False)
    for name in ("hidden.weight_quantizer", "mean_q", "hidden_q"):
        gm.get_submodule(name).enabled = False  # type: ignore[assignment]
    relief = next(row.relief for row in found.rows if row.layer == "hidden")
    assert relief == pytest.approx(found.damage - noise(gm), rel=1e-3)
    assert all(row.relief is None for row in qatc.sensitivity(gm, batches(), progress=False).rows)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_of_two_bits_does_the_most_damage(layer: str) -> None:
    gm = ready(fixed(qatc.Rule(layer, weight_bits=2)))
    assert qatc.sensitivity(gm, batches(), progress=False).rows[0].layer == layer


@pytest.mark.parametrize("cost", ["weights", "macs", "layers"])
def test_what_is_proposed_brings_back_the_accuracy_of_spoilt_layers(cost: str) -> None:
    gm = ready(w4a4(), spoilt())
    found = qatc.sensitivity(
        gm, batches(), budget={"weights": 0.7, "macs": 0.6, "layers": 0.4}[cost], cost=cost, progress=False
    )
    assert {"b", "hidden"} <= set(found.kept)
    assert found.budget is not None
    assert found.share <= found.budget
    mended = ready(w4a4(*found.rules), spoilt())
    bits = {str(row.layer): row.spec[:2] for row in qatc.sensitivity(mended, batches(), progress=False).rows}
    assert bits == {name: "s8" if name in found.kept else "s4" for name in LAYERS}
    assert 10 * math.log10(noise(gm) / noise(mended)) > 10


def test_divergence_is_that_of_the_probabilities() -> None:
    gm = ready(fixed(bits=4))
    found = qatc.sensitivity(gm, batches(), metric="kl", progress=False)
    gm.eval()
    with qatc.float_mode(gm):
        wanted = outputs(gm).log_softmax(1)
    divergence = nn.functional.kl_div(outputs(gm).log_softmax(1), wanted, log_target=True, reduction="batchmean")
    assert found.damage == pytest.approx(float(divergence), rel=1e-6)


def test_a_metric_of_ones_own_is_called_with_the_model() -> None:
    gm = ready(fixed(bits=4))
    calls = []

    def agreement(model: nn.Module) -> float:
        assert model is gm
        calls.append(model.training)
        return -noise_now(model)

    with qatc.float_mode(gm.eval()):
        wanted = outputs(gm)

    def noise_now(model: nn.Module) -> float:
        assert isinstance(model, PreparedModel)
        return float((outputs(model) - wanted).square().sum() / wanted.square().sum())

    found = qatc.sensitivity(gm, batches(), metric=agreement, progress=False)
    plain = qatc.sensitivity(gm, batches(), progress=False)
    assert len(calls) == len(LAYERS) + 2
    assert not any(calls)
    assert [row.layer for row in found.rows] == [row.layer for row in plain.rows]
    assert found.damage == pytest.approx(plain.damage, rel=1e-5)
    assert found.measure == "loss of agreement against float"


def test_nothing_changes_and_it_is_deterministic() -> None:
    gm = ready(fixed(bits=4)).train()
    state = {name: value.clone() for name, value in gm.state_dict().items()}
    one = qatc.sensitivity(gm, iter(batches()), relief=True, budget=0.5, progress=False)
    assert one.to_dict() == qatc.sensitivity(gm, batches(), relief=True, budget=0.5, progress=False).to_dict()
    assert all(m.training for m in gm.modules())
    assert all(q.enabled for _, q in quantizers(gm))
    assert all(torch.equal(value, state[name]) for name, value in gm.state_dict().items())
    assert not any(m._forward_hooks for m in gm.modules())


def test_sizes_are_those_of_the_layers() -> None:
    found = {row.layer: row for row in qatc.sensitivity(calibrated("onnxruntime", "w8a8"), [data()]).rows}
    assert {name: row.weights for name, row in found.items()} == {
        "conv": 432, "pre": 16, "body": 2304, "depthwise": 288, "head": 320,
    }  # fmt: skip
    assert {name: row.macs for name, row in found.items()} == {
        "conv": 432 * 256, "pre": 16 * 64, "body": 2304 * 64, "depthwise": 288 * 64, "head": 320,
    }  # fmt: skip
    assert not any(row.improvable for row in found.values()), "all have 8 bits"


def test_a_transposed_convolution_multiplies_for_each_value_that_it_reads() -> None:
    gm = qatc.prepare(randomise(nn.Sequential(nn.ConvTranspose2d(3, 6, 2, stride=2))).eval(), images(2, 3, 5, 5))
    qatc.calibrate(gm, [images(2, 3, 5, 5)], progress=False)
    (row,) = qatc.sensitivity(gm, [images(2, 3, 5, 5)], progress=False).rows
    assert (row.weights, row.macs) == (72, 25 * 72)


def damages(*given: tuple[float, int], improvable: bool = True) -> list[LayerDamage]:
    return [
        LayerDamage(str(i), "", "s4", "u4", damage, None, weights, weights, improvable)
        for i, (damage, weights) in enumerate(given)
    ]


def test_the_choice_is_within_the_budget_and_the_better_of_two() -> None:
    by_ratio, by_damage = damages((5.0, 10), (4.0, 10), (4.0, 80)), damages((10.0, 90), (1.0, 1), (0.5, 9))
    assert chosen(by_ratio, 0.2, "weights") == ("0", "1")
    assert chosen(by_damage, 0.9, "weights") == ("0",)
    assert chosen(by_damage, 1.0, "weights") == ("0", "1", "2")
    assert chosen(by_damage, 0.0, "weights") == ()
    assert chosen(by_damage, 1 / 3, "layers") == ("0",)
    assert chosen(damages((1.0, 1), improvable=False), 1.0, "weights") == ()
    assert chosen(damages((0.0, 1)), 1.0, "weights") == ()


def test_it_is_shown_as_a_table_and_as_data() -> None:
    found = qatc.sensitivity(ready(w4a4(), spoilt()), batches(), budget=0.4, cost="layers", progress=False)
    lines = str(found).splitlines()
    assert len(lines) == 2 + len(LAYERS) + 2
    assert sum(line.endswith("keep at 8 bits") for line in lines) == 2
    assert lines[-1] == "kept at 8 bits: 2 layers, 40% of the layers"
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [row["layer"] for row in read["rows"] if row["kept"]] == read["kept"]


def test_what_makes_no_sense_is_refused() -> None:
    gm = ready(fixed())
    for wrong in ({"metric": "psnr"}, {"cost": "watts", "budget": 0.1}, {"budget": 1.5}, {"bits": 99}):
        with pytest.raises(ConfigError):
            qatc.sensitivity(gm, batches(), **wrong)
    with pytest.raises(CalibrationError, match="no batch"):
        qatc.sensitivity(gm, [], progress=False)
    with pytest.raises(CalibrationError, match="no batch"):
        qatc.sensitivity(gm, [], metric=lambda _: 0.0, progress=False)
    with pytest.raises(CalibrationError, match="has no range"):
        qatc.sensitivity(qatc.prepare(nn.Sequential(nn.Linear(4, 4)), images(2, 4)), [images(2, 4)])
    flat = qatc.prepare(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), images(2, 4))
    qatc.calibrate(flat, [images(2, 4)], progress=False)
    with pytest.raises(ConfigError, match="no logits"):
        qatc.sensitivity(flat, [images(2, 4)], metric="kl", progress=False)
