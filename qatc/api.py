"""The calls of a training script: prepare, calibrate, freeze."""

import logging
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from qatc import ir
from qatc.arguments import arguments_of
from qatc.batches import arguments_in
from qatc.config import QConfig, config_of
from qatc.diagnosis import recording_bulk
from qatc.errors import CalibrationError, ConfigError, QatcWarning
from qatc.float_check import check_float
from qatc.float_state import float_names, unwrapped
from qatc.inspection import dumps_of
from qatc.modules.fused import Fused
from qatc.passes import qat_pipeline
from qatc.pipeline import Observer
from qatc.prepared import PreparedFor, PreparedModel, remember, remember_inputs
from qatc.quantizers import Quantizer
from qatc.ranks import join
from qatc.recording import quantizers, settle
from qatc.schedule.state import NAME as SCHEDULE
from qatc.schedule.state import ScheduleState
from qatc.spec import WITHOUT_BATCH_STATISTICS
from qatc.targets import Target, target_of
from qatc.trace import trace

log = logging.getLogger("qatc")


def prepare(
    model: nn.Module,
    example_inputs: Any = None,
    target: str | Target | None = None,
    config: str | os.PathLike[str] | QConfig = "w8a8",
    *,
    dump_dir: str | Path | None = None,
    observers: Iterable[Observer] = (),
    verify: bool = False,
    strict: bool = False,
) -> PreparedModel:
    """Return a copy of the model that trains with the quantization it will deploy with on `target`.

    Args:
        model: the float model, as written; it is not changed.
        example_inputs: a tensor, a tuple of the model's positional arguments, or a dict of its keyword arguments;
            tensors may stand inside dicts, lists, tuples, named tuples and dataclasses. Taken as `calibrate` takes a
            batch. With them the model's own Python runs on their shapes, of which any but those that it decides on stay
            open; without them it is traced symbolically, and must not ask for a shape.
        target: where it will run; decides where quantizers stand, so it is chosen before training. None is the one that
            the configuration names, or else `onnxruntime`; where both are given and differ, this one, with a warning.
        config: a `QConfig`, the path of one in a `.toml` file, or a preset: `w8a8`, `w8a8-pow2`, `w4a4`, `w4a4-pow2`,
            or a founding system's defaults (`nnabla`, ...; docs/configuration.md lists them).
        dump_dir: a folder for the numbered dump after each pass that changed something (`qatc.inspection.DumpFolder`).
        observers: what else is told of the traced graph and of each pass, as `qatc.inspection.PrintPasses()`.
        verify: whether to compare the result, with its quantizers off, with the model: outputs in eval mode, outputs,
            gradients and statistics of a training step (`qatc.float_difference`), unless BatchNorms are asked to train
            without batch statistics. Needs example_inputs of the real kind, and the time and memory of a few runs.
        strict: whether a submodule that cannot be traced is an error, instead of a warning (`QatcWarning`) and a part
            that stays in float.

    Raises:
        TraceError: the model's Python depends on the values of tensors.
        ConfigError: an unknown target or config, a rule that matches no layer, or `verify` without example_inputs.
        FloatCheckError: the check failed; it names the first pass that parted the two.

    """
    config = config_of(config)
    target = _chosen_target(target, config)
    if verify and example_inputs is None:
        raise ConfigError("verify=True needs data to run the model on", remedy="give example_inputs, of the real kind")
    given = None if example_inputs is None else arguments_of(example_inputs, model.forward)
    inputs = None if given is None else given.bound(model.forward)
    pipeline = qat_pipeline(target, config)
    observers = (*observers, *dumps_of(dump_dir, target, config))
    start = time.perf_counter()
    gm = trace(model, example_inputs, strict=strict)
    pipeline.begin(gm, observers, "trace", time.perf_counter() - start)
    pipeline.run(gm, observers)
    if not any(isinstance(module, Quantizer) for module in gm.modules()):
        raise ConfigError(
            f"nothing in {type(model).__name__} can be quantized for {target.name}",
            remedy="check that the model has layers of the target's table, and that no rule excludes them all",
        )
    if verify and given is not None:
        check_float(model, gm, pipeline, example_inputs, given, train=config.batch_norm not in WITHOUT_BATCH_STATISTICS)
    names = float_names(model, gm)
    gm.add_module(SCHEDULE, ScheduleState().train(gm.training))
    onto_the_models_device(gm)
    remember(gm, PreparedFor(target, config, float_names=names))
    if inputs is not None:
        remember_inputs(gm, inputs)
    if target.pow2 and not config.pow2:
        note = f"every scale is a power of two: {target.name} has no others, whatever the configuration asks for"
        ir.set_notes(gm, (*ir.notes(gm), note))
    if log.isEnabledFor(logging.INFO):  # a report reads every weight
        log.info("%s for %s: %s", type(model).__name__, target.name, gm.report.summary)
    return gm


def _chosen_target(given: str | Target | None, config: QConfig) -> Target:
    """Return the target given, or else that of the configuration."""
    target = target_of(given or config.target or "onnxruntime")
    if config.target not in (None, target.name):
        warnings.warn(
            f"the configuration is meant for {config.target}; the model is prepared for {target.name}, as asked",
            QatcWarning,
            stacklevel=3,
        )
    return target


def onto_the_models_device(gm: PreparedModel) -> None:
    """Move quantizers and schedule to where the model's parameters are."""
    device = next((p.device for p in gm.parameters()), torch.device("cpu"))
    for module in gm.modules():
        if isinstance(module, Quantizer | ScheduleState):
            module.to(device)


def calibrate(model: nn.Module, batches: Iterable[Any], *, steps: int | None = None, progress: bool = True) -> None:
    """Set the first ranges from data: run the model in eval mode on up to `steps` batches, recording only.

    A batch is a tensor, a tuple or list whose first items are the model's inputs (further ones, as labels, are left
    out), or a dict of keyword arguments (further keys likewise); a dict whose keys do not name the model's arguments is
    itself the first argument. Tensors, inside whatever containers, are moved to the device of the model's parameters.
    The model's mode is restored; its parameters and statistics do not move. In a process group of several ranks every
    one must call this, with batches of its own, and all get the ranges of what any of them saw.

    Raises:
        CalibrationError: no batch, or values that are not finite.
        ConfigError: a batch that does not fit the model's arguments.

    """
    found = [quantizer for _, quantizer in quantizers(model)]
    if not found:
        raise CalibrationError("the model has no quantizers", remedy="call qatc.prepare(model) first")
    calibrate_some(model, found, batches, steps=steps, progress=progress)


def calibrate_some(
    model: nn.Module, found: Sequence[Quantizer], batches: Iterable[Any], *, steps: int | None = None, progress: bool
) -> None:
    """Do what `calibrate` does for some quantizers of the model; the others quantize meanwhile."""
    if any(hasattr(p, "full_tensor") for quantizer in found for p in quantizer.parameters()):
        raise CalibrationError(
            "the quantizers' parameters are sharded over ranks", remedy="calibrate first, then call fully_shard"
        )
    called = unwrapped(model)
    count = 0
    bulk = recording_bulk(called) if isinstance(called, PreparedModel) else nullcontext()
    with _recording(model, found), bulk, torch.no_grad():
        for given in arguments_in(batches, model, steps, title="calibrate", progress=progress):
            model(*given.args, **given.kwargs)
            count += 1
            if count == 1 and isinstance(called, PreparedModel):
                remember_inputs(called, given.bound(called.forward))
    if not _any_rank(count, model):
        raise CalibrationError("there was no batch to calibrate with", remedy="pass a loader that yields batches")
    settle(model)


@contextmanager
def _recording(model: nn.Module, found: Iterable[Quantizer]) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    found = tuple(found)
    model.eval()
    for quantizer in found:
        quantizer.recording = True
        quantizer.finite.fill_(1.0)
    try:
        yield
    finally:
        for quantizer in found:
            quantizer.recording = False
        for module, training in modes.items():
            module.training = training


def _any_rank(count: int, model: nn.Module) -> bool:
    """Say whether any rank had a batch."""
    most = torch.tensor([float(count)], device=next((p.device for p in model.parameters()), None))
    join([(most, "greatest")])
    return bool(most)


def freeze_bn(model: nn.Module, frozen: bool = True) -> None:
    """Train on with the BatchNorms' running statistics, folded as they will deploy; the statistics stop moving."""
    for module in model.modules():
        if isinstance(module, Fused):
            module.bn_frozen = frozen


def freeze_ranges(model: nn.Module, frozen: bool = True) -> None:
    """Keep the ranges of activations as they are while training goes on (learned steps still learn)."""
    for _, quantizer in quantizers(model):
        quantizer.observing = not frozen


@contextmanager
def float_mode(model: nn.Module) -> Iterator[None]:
    """Run the model without any quantization inside the block: what it computes is the float model's function."""
    found = [(quantizer, quantizer.enabled) for _, quantizer in quantizers(model)]
    for quantizer, _ in found:
        quantizer.enabled = False
    try:
        yield
    finally:
        for quantizer, enabled in found:
            quantizer.enabled = enabled
