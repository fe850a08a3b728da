"""Another target than the one that a model was prepared for: quantizers placed anew, what they know carried over."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from qatc import ir
from qatc.api import calibrate_some, onto_the_models_device
from qatc.errors import CalibrationError, LoweringError
from qatc.lowering.take_clips_back import TakeClipsBack
from qatc.modules.fused import Fused
from qatc.modules.kinds import op_kind
from qatc.passes import placement_pipeline
from qatc.prepared import PreparedModel, remember
from qatc.quantizers import Quantizer
from qatc.schedule.state import NAME as SCHEDULE
from qatc.targets import Target, target_of


@dataclass(frozen=True)
class Placed:
    """A model with its quantizers placed anew, and those of them, by name, whose tensors had no grid before."""

    model: PreparedModel
    missing: dict[str, Quantizer]


def replace_placement(
    model: PreparedModel, target: str | Target, batches: Iterable[Any] | None = None, *, progress: bool = True
) -> PreparedModel:
    """Return a copy of a prepared, calibrated or trained model with its quantizers where another target wants them.

    Weights stay. A weight quantizer whose grid is of the same kind keeps its state, one of another kind (a scale for
    all channels instead of one each) begins anew from the weight. The grid of an activation covers the values that the
    one on the same tensor covered, whatever their codes were: so does a learned step when codes become signed. Tensors
    that had no grid are calibrated, the others being quantized meanwhile. Train on, or verify what comes out: the
    network was not trained with this placement.

    Args:
        model: what `qatc.prepare` returned, with ranges; it is not changed.
        target: the target to place for.
        batches: data for tensors that had no grid, as `qatc.calibrate` takes it; not needed where there are none.
        progress: whether to show a progress bar on a terminal.

    Raises:
        CalibrationError: data is needed and not given, a range is missing, or values are not finite.
        ConfigError: the target does not take the configuration.

    """
    placed = placed_for(model, target)
    if placed.missing and batches is None:
        names = ", ".join(placed.missing)
        raise CalibrationError(
            f"{placed.model.prepared_for and placed.model.prepared_for.target.name} wants grids on tensors that had "
            f"none: {names}",
            remedy="give calibration data: replace_placement(model, target, batches), on the command line --calib",
        )
    if placed.missing and batches is not None:
        calibrate_some(placed.model, list(placed.missing.values()), batches, progress=progress)
    return placed.model


def placed_for(model: PreparedModel, target: str | Target) -> Placed:
    """Do what `replace_placement` does without data: the ranges of tensors that had no grid are missing."""
    if model.prepared_for is None:
        raise LoweringError("this is not a prepared model", remedy="qatc.prepare it, calibrate or train it")
    target = target_of(target)
    twin = copy.deepcopy(model)
    _check_ready(twin)
    schedule = twin._modules.pop(SCHEDULE, None)  # no node calls it, so pruning would drop it
    known = _take_out(twin, model.prepared_for.target)
    placement_pipeline(target, model.prepared_for.config).run(twin)
    if schedule is not None:
        twin.add_module(SCHEDULE, schedule)
    onto_the_models_device(twin)
    remember(twin, replace(model.prepared_for, target=target))
    return Placed(twin, _carry_over(twin, known))


@dataclass(frozen=True)
class _Known:
    """What the quantizers of the old placement were: by tensor, and those of weights by layer."""

    activations: dict[fx.Node, Quantizer]
    sites: dict[fx.Node, int]
    bulks: dict[fx.Node, tuple[float, float]]
    weights: dict[str, Quantizer]


def _check_ready(model: PreparedModel) -> None:
    for name, module in model.named_modules():
        if isinstance(module, Quantizer) and not module.ready:
            raise CalibrationError(
                "the model has a quantizer without a finite range", where=name, remedy="run qatc.calibrate first"
            )


def _take_out(gm: PreparedModel, target: Target) -> _Known:
    """Take all quantizers out of a graph, and what else was decided for its target; return what they were."""
    known = _Known({}, {}, {}, {})
    for node in gm.graph.nodes:
        source = ir.grid_source(node)
        quantizer = ir.module_of(source, Quantizer)
        if source is not None and quantizer is not None and source is not node:
            known.activations[node], known.sites[node] = quantizer, _site(source)
    TakeClipsBack().run(gm)
    for node, module in list(ir.module_calls(gm)):
        if isinstance(module, Quantizer):
            tensor = node.args[0]
            assert isinstance(tensor, fx.Node)
            known.activations[tensor], known.sites[tensor] = module, _site(node)
            bulk = ir.bulk(node)
            if bulk is not None:
                known.bulks[tensor] = bulk
            for reader in list(node.users):
                ir.replace_input(reader, node, tensor)
            gm.graph.erase_node(node)
            continue
        if isinstance(module, Fused) and module.weight_quantizer is not None:
            known.weights[str(node.target)] = module.weight_quantizer
            module.weight_quantizer = None
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "grid"}
        kind = op_kind(module)
        if kind in target.ops or ir.why_float(node) == target.rule(kind).reason:
            ir.set_why_float(node, "")
        ir.set_fused_into(node, "")
    ir.prune(gm)
    return known


def _site(call: fx.Node) -> int:
    return int(call.args[1]) if len(call.args) > 1 else 0  # type: ignore[arg-type]  # a number, by number_sites


def _carry_over(gm: PreparedModel, known: _Known) -> dict[str, Quantizer]:
    """Give the new quantizers what the old ones knew; return those that none knew anything for."""
    calls: dict[str, list[fx.Node]] = {}
    for node, module in ir.module_calls(gm):
        if isinstance(module, Quantizer):
            calls.setdefault(str(node.target), []).append(node)
            tensor = node.args[0]
            if tensor in known.bulks:
                ir.set_bulk(node, known.bulks[tensor])  # type: ignore[index]  # a node, as a key of it
        elif isinstance(module, Fused) and module.weight_quantizer is not None:
            old = known.weights.get(str(node.target))
            if old is not None:
                module.weight_quantizer = old if _alike(old, module.weight_quantizer) else module.weight_quantizer
    missing = {}
    for path, nodes in calls.items():
        new = gm.get_submodule(path)
        assert isinstance(new, Quantizer)
        tensors: list[Any] = [node.args[0] for node in nodes]
        found = [known.activations.get(tensor) for tensor in tensors]
        old_ones = [old for old in found if old is not None]
        _take_stage(new, old_ones or list(known.activations.values()))
        if len(old_ones) < len(found):
            if not new.ready:  # it is where the target has the grid itself
                missing[path] = new
        elif _same(new, old_ones, [known.sites[tensor] for tensor in tensors]):
            new.load_state_dict(old_ones[0].state_dict())
        elif not new.ready:
            ranges = [_covered(old, known.sites[tensor]) for old, tensor in zip(old_ones, tensors, strict=True)]
            new.cover(ranges)
    return missing


def _alike(old: Quantizer, new: Quantizer) -> bool:
    return type(old) is type(new) and old.spec == new.spec


def _same(new: Quantizer, old_ones: list[Quantizer], sites: list[int]) -> bool:
    """Say whether one old quantizer had all these tensors, at the same sites, and no others."""
    old = old_ones[0]
    alike = _alike(old, new) and old.sites == new.sites
    return alike and all(other is old for other in old_ones) and sites == [*range(len(sites))]


def _covered(old: Quantizer, site: int) -> Any:
    ranges = old.covers()
    return ranges[site] if len(ranges) == old.sites else ranges[0]


def _take_stage(new: Quantizer, old_ones: list[Quantizer]) -> None:
    """Let it go on where training was: frozen ranges stay frozen, a later stage of a schedule is not begun anew."""
    new.observing = all(old.observing for old in old_ones)
    new.enabled = all(old.enabled for old in old_ones)
    if old_ones:
        new.stage = old_ones[0].stage
