"""Debugging a model: each figure against a run with hooks, what is spoilt comes first, nothing changes."""

import gc
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import qatc
from qatc import ir
from qatc.debugging import DebugReport, DebugRow
from qatc.errors import CalibrationError, ConfigError
from qatc.layers import layers_of
from qatc.modules.fused import Fused
from qatc.nested import tensors
from qatc.prepared import PreparedModel
from qatc.quantizers import Quantizer
from qatc.recording import quantizers
from qatc.view import measured_json
from qatc.view.measured import measured_from
from tests.attention_models import Weights
from tests.debugging.networks import Two, batches, fixed, ready
from tests.lowering.networks import calibrated, data
from tests.models import images, randomise

LAYERS = ("stem", "a", "b", "hidden", "head")
TENSORS = ("x_q", "stem_q", "a_q", "b_q", "relu_2_q", "mean_q", "hidden_q")


def debugged(gm: torch.nn.Module, given: Any = None) -> DebugReport:
    return qatc.debug(gm, batches() if given is None else given, progress=False)


def row(report: DebugReport, node: str) -> DebugRow:
    return next(row for row in report.rows if row.node == node)


def sqnr(wanted: Tensor, found: Tensor) -> float:
    error = (wanted.double() - found.double()).square().sum()
    return float(10 * torch.log10(wanted.double().square().sum() / error))


@torch.no_grad()
def outputs_of(gm: PreparedModel, path: str) -> Tensor:
    """Return what a module gives on all batches, in one tensor."""
    seen: list[Tensor] = []
    hook = gm.get_submodule(path).register_forward_hook(lambda _, __, result: seen.append(result.clone()))
    for batch in batches():
        gm(batch)
    hook.remove()
    return torch.cat(seen)


def test_the_figures_of_an_activation_are_those_of_its_tensors() -> None:
    gm = ready(fixed(bits=4)).eval()
    found = row(debugged(gm), "a_q")
    y, x = outputs_of(gm, "a_q"), outputs_of(gm, "a")
    with qatc.float_mode(gm):
        wanted = outputs_of(gm, "a")
    assert found.local.sqnr == pytest.approx(sqnr(x, y), abs=1e-3)
    assert found.accumulated.sqnr == pytest.approx(sqnr(wanted, y), abs=1e-3)
    assert found.without.sqnr == pytest.approx(sqnr(wanted, x), abs=1e-3)
    assert found.drop == pytest.approx(sqnr(wanted, x) - sqnr(wanted, y), abs=1e-3)
    assert found.rank == pytest.approx(float((x - y).square().sum() / wanted.square().sum()), rel=1e-4)
    cosine = torch.nn.functional.cosine_similarity(wanted.flatten(), y.flatten(), 0)
    assert found.accumulated.cosine == pytest.approx(float(cosine), abs=1e-6)
    assert found.usage.data == (float(x.min()), float(x.max()))
    assert found.location.startswith("networks.py:")


def test_the_figures_of_a_weight_are_of_the_folded_one_and_of_what_its_layer_gives() -> None:
    gm = ready(fixed(bits=4)).eval()
    found = row(debugged(gm), "a")
    layer = next(layer for layer in layers_of(gm) if layer.name == "a")
    folded, quantizer = layer.folded(), layer.module.weight_quantizer
    assert quantizer is not None
    weight = folded.weight.detach()
    floor = layer.module.least_scale(folded.bias, layer.grid)
    assert found.local.sqnr == pytest.approx(sqnr(weight, quantizer(weight, gain=folded.gain, floor=floor)), abs=1e-3)
    assert found.usage.data == (float(weight.min()), float(weight.max()))
    y, x = outputs_of(gm, "a"), outputs_of(gm, "stem_q")
    module, bn = layer.module, layer.bn
    with qatc.float_mode(gm), torch.no_grad():
        without, wanted = module(x, bn), outputs_of(gm, "a")
    assert found.without.sqnr == pytest.approx(sqnr(wanted, without), abs=1e-3)
    assert found.accumulated.sqnr == pytest.approx(sqnr(wanted, y), abs=1e-3)
    assert found.rank == pytest.approx(float((without - y).square().sum() / wanted.square().sum()), rel=1e-3)


def test_outputs_are_those_of_the_model() -> None:
    gm = ready(fixed(bits=4)).eval()
    with torch.no_grad():
        found = torch.cat([gm(batch) for batch in batches()])
        with qatc.float_mode(gm):
            wanted = torch.cat([gm(batch) for batch in batches()])
    assert debugged(gm).outputs.sqnr == pytest.approx(sqnr(wanted, found), abs=1e-3)


def test_every_quantized_tensor_and_weight_has_a_row() -> None:
    gm = calibrated("onnxruntime", "w8a8")
    report = debugged(gm, [data()])
    weighted = [m for m in gm.modules() if isinstance(m, Fused) and m.weight_quantizer is not None]
    assert sum(row.kind == "weight" for row in report.rows) == len(weighted)
    calls = [node for node, m in ir.module_calls(gm) if isinstance(m, Quantizer)]
    assert len(report.rows) == len(weighted) + len(calls), "a quantizer that two tensors share has a row for each"
    assert {row.node for row in report.rows} <= {node.name for node in gm.graph.nodes}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_spoilt_to_two_bits_comes_first(layer: str, bits: int) -> None:
    report = debugged(ready(fixed(qatc.Rule(layer, weight_bits=2), bits=bits)))
    first, second = report.rows[:2]
    assert (first.node, first.kind) == (layer, "weight")
    assert first.rank > 4 * second.rank
    assert first.drop > 10


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("tensor", TENSORS)
def test_a_tensor_that_is_clipped_comes_first(tensor: str, bits: int) -> None:
    gm = ready(fixed(bits=bits))
    spoilt = gm.get_submodule(tensor)
    assert isinstance(spoilt, Quantizer)
    with torch.no_grad():
        for end in spoilt.buffers(recurse=False):
            end.mul_(0.3)
    first, second = debugged(gm).rows[:2]
    assert (first.node, first.kind) == (tensor, "activation")
    assert first.rank > 4 * second.rank
    assert first.usage.clipped > 0.05


def test_what_only_passes_on_an_error_does_not_come_first() -> None:
    """Behind a spoilt layer the accumulated SQNR stays low, and gets lower: the guilty one is not the lowest."""
    report = debugged(ready(fixed(qatc.Rule("hidden", weight_bits=2))))
    assert row(report, "head").accumulated.sqnr < row(report, "hidden").accumulated.sqnr < 10
    assert row(report, "head").rank < 1e-3 < report.rows[0].rank
    assert report.rows[0].node == "hidden"


def test_nothing_changes() -> None:
    gm = ready(fixed(bits=4)).train()
    gm.get_submodule("b").eval()
    next(q for _, q in quantizers(gm)).stage = "follow"
    state = {name: value.clone() for name, value in gm.state_dict().items()}

    def held() -> list[Any]:
        return [(m.training, getattr(m, "enabled", None), getattr(m, "stage", None)) for m in gm.modules()]

    before = held()
    debugged(gm)
    assert held() == before
    assert all(torch.equal(value, state[name]) for name, value in gm.state_dict().items())
    assert all(p.grad is None for p in gm.parameters())
    with pytest.raises(ConfigError):
        debugged(gm, [images(8, 3, 6, 6), "no batch"])
    assert held() == before


def test_it_is_deterministic_and_cuts_of_the_data_do_not_matter() -> None:
    gm = ready(fixed())
    assert debugged(gm).to_dict() == debugged(gm).to_dict()
    whole = debugged(gm, [torch.cat(batches())])
    for ours, theirs in zip(debugged(gm).rows, whole.rows, strict=True):
        assert ours.node == theirs.node
        assert ours.accumulated.sqnr == pytest.approx(theirs.accumulated.sqnr, abs=1e-4)
        assert ours.usage == theirs.usage


def test_a_stage_of_a_schedule_does_not_matter() -> None:
    gm = ready(fixed())
    wanted = debugged(gm).to_dict()
    for _, quantizer in quantizers(gm):
        quantizer.stage = "float"
    assert debugged(gm).to_dict() == wanted


def test_several_inputs_in_containers_and_outputs_that_are_no_floats() -> None:
    given = [((images(5, 6, seed=i), images(5, 6, seed=i + 1)), images(5, 1, seed=i + 2)) for i in range(2)]
    gm = qatc.prepare(randomise(Two()).eval(), given[0])
    qatc.calibrate(gm, given, progress=False)
    report = debugged(gm, iter(given))
    assert report.batches == 2
    assert {row.node for row in report.rows if row.kind == "weight"} == {"left", "right"}
    assert 15 < report.outputs.sqnr < 60
    keyed = debugged(gm, [{"pair": pair, "shift": shift} for pair, shift in given])
    assert keyed.to_dict() == report.to_dict()


def test_values_that_are_not_finite_come_first_and_are_no_number_in_the_json() -> None:
    given = batches()[0]
    given[0, 0, 0, 0] = math.nan
    report = debugged(ready(fixed()), [given])
    assert report.rows[0].rank == math.inf
    first = json.loads(report.json(), parse_constant=pytest.fail)["rows"][0]
    assert (first["added"], first["accumulated_sqnr"]) == (None, None)
    assert str(report).splitlines()[2].split()[0] == report.rows[0].path


def test_parts_whose_weights_are_given_and_ops_without_weights() -> None:
    """Attention taken apart: its softmax and products have tensors of their own, its projections weights."""
    x = images(2, 5, 8)
    gm = qatc.prepare(randomise(Weights()).eval(), x)
    qatc.calibrate(gm, [x], progress=False)
    report = debugged(gm, [x])
    calls = [m for _, m in ir.module_calls(gm) if isinstance(m, Quantizer | Fused)]
    assert len(report.rows) == len(calls)
    with torch.no_grad():
        found = gm.eval()(x)
        with qatc.float_mode(gm):
            wanted = gm(x)
    assert report.outputs.sqnr == pytest.approx(sqnr(tensors(wanted)[0][1], tensors(found)[0][1]), abs=0.1)


def test_what_is_kept_does_not_grow_with_the_data() -> None:
    gm = ready(fixed())
    alive: list[int] = []

    def given() -> Iterator[Tensor]:
        for seed in range(6):
            alive.append(sum(x.numel() for x in gc.get_objects() if type(x) is Tensor))
            yield images(8, 3, 6, 6, seed=seed)

    debugged(gm, given())
    assert len(set(alive[2:])) == 1
    assert alive[2] - alive[0] < 2 * len(list(quantizers(gm))) * 8192 + 10_000


def test_models_that_are_not_ready_are_refused() -> None:
    with pytest.raises(CalibrationError, match="has no range"):
        debugged(qatc.prepare(torch.nn.Sequential(torch.nn.Linear(4, 4)), images(2, 4)), [images(2, 4)])
    with pytest.raises(ConfigError, match="not prepared"):
        debugged(torch.nn.Linear(4, 4))
    with pytest.raises(CalibrationError, match="no batch"):
        debugged(ready(fixed()), [])


def test_the_table_has_the_worst_ten_with_their_places() -> None:
    report = debugged(ready(fixed(qatc.Rule("b", weight_bits=2))))
    lines = str(report).splitlines()
    assert lines[2].startswith("b networks.py:")
    assert len(lines) == 2 + 10 + 2
    assert lines[-2] == f"{len(report.rows) - 10} more, which each add less"
    assert len(report.table(None).splitlines()) == 2 + len(report.rows) + 1


def test_its_json_has_every_row_and_no_number_that_json_lacks() -> None:
    report = debugged(ready(fixed()))
    read = json.loads(report.json(), parse_constant=pytest.fail)
    assert [row["node"] for row in read["rows"]] == [row.node for row in report.rows]
    first = next(row for row in read["rows"] if row["node"] == "x_q")
    assert first["drop"] is None, "infinite: there is no error before it"
    assert math.isfinite(first["accumulated_sqnr"])


def test_what_a_page_plots_has_the_form_that_dump_folders_hold() -> None:
    measured = debugged(ready(fixed())).measured()
    assert set(measured) == {"stem", "a", "b", "hidden", "head", *TENSORS}
    assert measured_from(json.loads(measured_json(measured))) == measured
    assert all(one.histogram is not None and "accumulated SQNR, dB" in one.figures for one in measured.values())
