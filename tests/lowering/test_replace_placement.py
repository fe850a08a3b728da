"""Another target than the one that a model was prepared for: what moves, what is carried over, what needs data."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qatc
from qatc import ir
from qatc.errors import CalibrationError, LoweringError
from qatc.lowering.compare_simulations import simulated_sqnr
from qatc.lowering.lowered import lowered_proto
from qatc.lowering.placement_changes import PlacementChange, placement_changes, table
from qatc.lowering.replace_placement import placed_for
from qatc.lowering.verify import verify
from qatc.modules.fused import Fused
from qatc.printer import format_graph
from qatc.quantizers import ACTIVATION_QUANTIZERS, Quantizer, representable
from qatc.targets import TARGETS
from tests.lowering.networks import calibrated, data, everything
from tests.models import images
from tests.written_forms import ATTENTION

OTHER = {"onnxruntime": "tensorrt", "tensorrt": "onnxruntime"}
both_ways = pytest.mark.parametrize("target", OTHER)


def prepared(target: str, model: nn.Module | None = None, **layer: Any) -> qatc.PreparedModel:
    torch.manual_seed(0)
    config = qatc.QConfig(default=qatc.LayerConfig(**layer))
    gm = qatc.prepare(everything() if model is None else model, data(), target, config)
    qatc.calibrate(gm, [data()], progress=False)
    return gm.eval()


def ends(gm: qatc.PreparedModel) -> dict[str, tuple[float, float]]:
    """Return the least and the greatest value on the grid of each tensor."""
    calls = ((node, module) for node, module in ir.module_calls(gm) if isinstance(module, Quantizer))
    return {str(node.args[0]): representable(module) for node, module in calls}


def outputs(gm: qatc.PreparedModel) -> Tensor:
    with torch.no_grad():
        result: Tensor = gm(data())
    return result


@both_ways
@pytest.mark.parametrize("config", ["w8a8", "w8a8-pow2", "w4a4"])
def test_quantizers_stand_where_prepare_puts_them(target: str, config: str) -> None:
    old, fresh = calibrated(target, config), calibrated(OTHER[target], config)
    new = qatc.replace_placement(old, OTHER[target], [data()], progress=False)
    assert new.report.rows == fresh.report.rows
    assert set(new.state_dict()) == set(fresh.state_dict())
    assert set(dict(new.named_modules())) == set(dict(fresh.named_modules()))
    files = [lowered_proto(gm).proto.graph for gm in (new, fresh)]
    assert [(n.op_type, n.name) for n in files[0].node] == [(n.op_type, n.name) for n in files[1].node]
    check = verify(new, lowered_proto(new), {"x": data().numpy()})
    assert check.passed, str(check)
    assert simulated_sqnr(old, new, {"x": data().numpy()}) > (10 if config == "w4a4" else 30)


@both_ways
def test_functions_and_masks_are_placed_as_prepare_does(target: str) -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.behind = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            y = ATTENTION["causal attention"](y)
            y.mul_(0.5)
            z: Tensor = self.behind(F.pad(F.silu(torch.cat([y, y.relu()], 2)), (1, 1)))
            return z

    torch.manual_seed(0)
    model = Written().eval()
    old, fresh = (prepared(name, model) for name in (target, OTHER[target]))
    new = qatc.replace_placement(old, OTHER[target], [data()], progress=False)
    written = [[n.op_type for n in lowered_proto(gm).proto.graph.node] for gm in (new, fresh)]
    assert written[0] == written[1]


@pytest.mark.parametrize("quantizer", ACTIVATION_QUANTIZERS)
def test_the_same_target_changes_no_bit(quantizer: str) -> None:
    small = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3)).eval()
    old = prepared("tensorrt", small, activation_quantizer=quantizer, weight_quantizer="lsq")
    new = qatc.replace_placement(old, "tensorrt")
    assert placement_changes(old, new) == ()
    for name, value in old.state_dict().items():
        assert torch.equal(new.state_dict()[name], value), name
    assert torch.equal(outputs(new), outputs(old))


@pytest.mark.parametrize("quantizer", ACTIVATION_QUANTIZERS)
def test_ranges_are_carried_over_by_their_values(quantizer: str) -> None:
    """Unsigned codes become signed and the other way round: the values that the grids end at stay."""
    old = prepared("onnxruntime", activation_quantizer=quantizer)
    with torch.no_grad():  # as if it had been trained: other than what calibration finds
        for name, parameter in old.named_parameters():
            if name.endswith("log_scale"):
                parameter.add_(0.05)
    new = qatc.replace_placement(old, "tensorrt", [data()], progress=False)
    was, now = ends(old), ends(new)
    for tensor in ("pre", "depthwise", "interpolate", "mean"):  # behind ReLUs, whose codes were unsigned
        assert was[tensor][0] == 0
        assert now[tensor][1] == pytest.approx(was[tensor][1], rel=2e-3), tensor
        assert now[tensor][0] < 0
    assert now["x"][1] == pytest.approx(max(-was["x"][0], was["x"][1]), rel=1e-2)


def test_a_grid_shared_by_several_tensors_covers_them_all() -> None:
    old = prepared("onnxruntime", activation_quantizer="lsq")
    new = qatc.replace_placement(old, "tensorrt", [data()], progress=False)
    was = [ends(old)[tensor][1] for tensor in ("relu_2", "avg_pool2d", "cat")]
    assert ends(new)["cat"][1] == pytest.approx(max(was), rel=1e-3)


def test_learned_weights_keep_their_steps() -> None:
    old = prepared("tensorrt", weight_quantizer="lsq")
    layer: Any = old.get_submodule("body")
    with torch.no_grad():
        layer.weight_quantizer.log_scale += 0.03
    new: Any = qatc.replace_placement(old, "onnxruntime", [data()], progress=False).get_submodule("body")
    assert torch.equal(new.weight_quantizer.log_scale, layer.weight_quantizer.log_scale)
    assert new.weight_quantizer is not layer.weight_quantizer


def test_weights_with_another_grid_begin_anew() -> None:
    old = prepared("tensorrt", weight_quantizer="lsq")
    target = replace(
        TARGETS["tensorrt"], name="per-tensor", weight=replace(TARGETS["tensorrt"].weight, per_channel=frozenset())
    )
    new = qatc.replace_placement(old, target)
    assert placement_changes(old, new) == tuple(
        PlacementChange(f"{name} weight", "s8/ch0", "s8") for name in ("conv", "body", "depthwise", "head")
    )
    fresh = qatc.prepare(everything(), data(), target, qatc.QConfig(default=qatc.LayerConfig(weight_quantizer="lsq")))
    for name in ("body", "head"):
        ours, theirs = (gm.get_parameter(f"{name}.weight_quantizer.log_scale") for gm in (new, fresh))
        assert torch.equal(ours, theirs)


def test_tensors_without_a_grid_need_data() -> None:
    old = calibrated("tensorrt", "w8a8")
    assert list(placed_for(old, "onnxruntime").missing) == ["conv_q", "body_q"]
    with pytest.raises(CalibrationError, match=r"onnxruntime wants grids on tensors that had none: conv_q, body_q\n.*"):
        qatc.replace_placement(old, "onnxruntime")


def test_calibration_moves_no_range_but_those_that_were_missing() -> None:
    old = prepared("tensorrt", activation_quantizer="fixed")
    some, ten = (
        ends(qatc.replace_placement(old, "onnxruntime", [factor * data()], progress=False)) for factor in (1, 10)
    )
    moved = {tensor for tensor in some if some[tensor] != ten[tensor]}
    assert moved == {"conv", "body"}


def test_the_model_itself_is_not_changed() -> None:
    old = calibrated("onnxruntime", "w8a8")
    before, graph = copy.deepcopy(old.state_dict()), format_graph(old)
    qatc.replace_placement(old, "tensorrt")
    assert format_graph(old) == graph
    assert all(torch.equal(value, before[name]) for name, value in old.state_dict().items())


def test_training_goes_on_where_it_was() -> None:
    old = qatc.prepare(everything(), data(), "onnxruntime")
    qatc.calibrate(old, [data()], progress=False)
    qatc.freeze_bn(old)
    optimizer = torch.optim.SGD(old.parameters(), lr=0.0)
    running = qatc.Schedule(freeze_ranges=0.0).start(old, optimizer, steps_per_epoch=4, epochs=1)
    running.step()
    new = qatc.replace_placement(old.train(), "tensorrt")
    assert new.training
    assert int(new.get_buffer("qatc_schedule.step")) == 1
    assert all(not m.observing for m in new.modules() if isinstance(m, Quantizer) and m.recorders)
    assert all(m.bn_frozen for m in new.modules() if isinstance(m, Fused))
    new(data()).sum().backward()
    assert all(p.grad is not None for p in new.parameters())


@pytest.mark.parametrize("mode", ["two-convolutions", "straight-through", "frozen", "folded"])
def test_batch_norms_train_as_they_did(mode: str) -> None:
    config = qatc.QConfig(batch_norm=mode)
    gms = [qatc.prepare(everything(), data(), target, config) for target in OTHER]
    for gm in gms:
        qatc.calibrate(gm, [data()], progress=False)
    new = qatc.replace_placement(gms[0], "tensorrt")
    assert new.report.rows == gms[1].report.rows
    modes = [{n: m.bn_mode for n, m in gm.named_modules() if isinstance(m, Fused)} for gm in (new, gms[1])]
    assert modes[0] == modes[1]


def test_it_is_saved_as_what_it_became(tmp_path: Path) -> None:
    new = qatc.replace_placement(calibrated("onnxruntime", "w8a8"), "tensorrt")
    qatc.save(new, tmp_path / "new.pt")
    loaded = qatc.load(tmp_path / "new.pt")
    assert loaded.prepared_for is not None
    assert loaded.prepared_for.target == TARGETS["tensorrt"]
    assert torch.equal(outputs(loaded.eval()), outputs(new.eval()))


def test_it_may_be_moved_again() -> None:
    old = calibrated("onnxruntime", "w8a8-pow2")
    there = qatc.replace_placement(old, "tensorrt")
    back = qatc.replace_placement(there, "onnxruntime", [data()], progress=False)
    assert back.report.rows == old.report.rows


def test_an_uncalibrated_model_is_refused() -> None:
    gm = qatc.prepare(everything(), data(), "onnxruntime")
    with pytest.raises(CalibrationError, match=r"without a finite range\n  at: x_q\n"):
        qatc.replace_placement(gm, "tensorrt")


def test_lowering_for_another_target_says_what_would_move() -> None:
    old = calibrated("onnxruntime", "w8a8")
    with pytest.raises(LoweringError) as error:
        lowered_proto(old, "tensorrt")
    said = str(error.value)
    assert said.startswith(
        "the model was prepared and trained for onnxruntime; for tensorrt quantizers would move:\n"
        "tensor              for onnxruntime  for tensorrt\n"
        "input x             u8/asym          s8\n"
        "conv bias           int32            float\n"
        "conv output         u8               none\n"
    )
    assert "relu__call1 output  u8               s8 shared\n" in said
    assert "pre weight          s8/ch0           none\n" in said
    assert "--replace-placement" in said


def test_a_target_with_the_same_placement_moves_nothing() -> None:
    twin = replace(TARGETS["tensorrt"], name="twin")
    with pytest.raises(LoweringError, match="for twin quantizers would move:\nnothing would move"):
        lowered_proto(calibrated("tensorrt", "w8a8"), twin)


def test_a_table_has_a_line_a_tensor() -> None:
    rows = (PlacementChange("conv1 output", "u8", "none"), PlacementChange("fc bias", "int32", "float"))
    assert table(rows, "a", "b") == (
        "tensor        for a  for b\nconv1 output  u8     none\nfc bias       int32  float"
    )


class Opaque(nn.Module):
    """A part that needs the values of tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if float(x.sum()) > 0 else x


def test_reasons_of_tracing_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Opaque(), nn.Mish(), nn.Conv2d(4, 4, 1)).eval()
    gms = []
    for target in OTHER:
        with pytest.warns(qatc.QatcWarning):
            gms.append(qatc.prepare(model, images(), target))
        qatc.calibrate(gms[-1], [images()], progress=False)
    new = qatc.replace_placement(gms[0], "tensorrt")
    assert new.report.rows == gms[1].report.rows
    reasons = [row.reason for row in new.report.rows if row.reason]
    assert any("cannot be traced" in reason for reason in reasons)
    assert any("Mish has no integer form on tensorrt" in reason for reason in reasons)
