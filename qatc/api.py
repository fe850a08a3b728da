"""The calls of a training script: prepare, calibrate, freeze."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from qatc import ir
from qatc.arguments import Arguments, arguments_of
from qatc.errors import CalibrationError, ConfigError
from qatc.float_check import check_float
from qatc.float_state import float_names, unwrapped
from qatc.modules.fused import Fused
from qatc.nested import map_tensors
from qatc.passes import qat_pipeline
from qatc.pipeline import DumpFolder
from qatc.prepared import PreparedFor, PreparedModel, remember, remember_inputs
from qatc.quantizers import Quantizer
from qatc.ranks import join
from qatc.spec import QConfig, config_of
from qatc.targets import Target, target_of
from qatc.trace import trace

log = logging.getLogger("qatc")


def prepare(
    model: nn.Module,
    example_inputs: Any = None,
    target: str | Target = "onnxruntime",
    config: str | QConfig = "w8a8",
    *,
    dump_dir: str | Path | None = None,
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
        target: where it will run; decides where quantizers stand, so it is chosen before training.
        config: a preset (`w8a8`, `w8a8-pow2`, `w4a4`, `w4a4-pow2`) or a `QConfig`.
        dump_dir: a folder for the numbered text dump after each pass that changed something.
        verify: whether to compare the result, with its quantizers off, with the model: outputs in eval mode, outputs,
            gradients and statistics of a training step (`qatc.float_difference`). Needs example_inputs of the real
            kind, and the time and memory of a few runs.
        strict: whether a submodule that cannot be traced is an error, instead of a warning (`QatcWarning`) and a part
            that stays in float.

    Raises:
        TraceError: the model's Python depends on the values of tensors.
        ConfigError: an unknown target or config, a rule that matches no layer, or `verify` without example_inputs.
        FloatCheckError: the check failed; it names the first pass that parted the two.

    """
    target, config = target_of(target), config_of(config)
    if verify and example_inputs is None:
        raise ConfigError("verify=True needs data to run the model on", remedy="give example_inputs, of the real kind")
    given = None if example_inputs is None else arguments_of(example_inputs, model.forward)
    inputs = None if given is None else given.bound(model.forward)
    gm = trace(model, example_inputs, strict=strict)
    dumps = None if dump_dir is None else DumpFolder(Path(dump_dir))
    if dumps is not None:
        dumps.start(gm)
    pipeline = qat_pipeline(target, config)
    pipeline.run(gm, () if dumps is None else (dumps,))
    if not any(isinstance(module, Quantizer) for module in gm.modules()):
        raise ConfigError(
            f"nothing in {type(model).__name__} can be quantized for {target.name}",
            remedy="check that the model has layers of the target's table, and that no rule excludes them all",
        )
    if verify and given is not None:
        check_float(model, gm, pipeline, example_inputs, given)
    remember(gm, PreparedFor(target, config, float_names=float_names(model, gm)))
    if inputs is not None:
        remember_inputs(gm, inputs)
    log.info("%s for %s: %s", type(model).__name__, target.name, gm.report.summary)
    return gm


def quantizers(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """Yield every quantizer of a prepared model with its name."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, Quantizer))


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
    found = dict(quantizers(model))
    if not found:
        raise CalibrationError("the model has no quantizers", remedy="call qatc.prepare(model) first")
    if any(hasattr(p, "full_tensor") for quantizer in found.values() for p in quantizer.parameters()):
        raise CalibrationError(
            "the quantizers' parameters are sharded over ranks", remedy="calibrate first, then call fully_shard"
        )
    called = unwrapped(model)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    total = steps if steps is not None else _length(batches)
    count = 0
    with _recording(model, found.values()), torch.no_grad():
        bar = tqdm(islice(batches, steps), "calibrate", total, disable=None if progress and _is_main() else True)
        for batch in bar:
            given: Arguments = map_tensors(lambda x: x.to(device), _arguments(batch, called))
            model(*given.args, **given.kwargs)
            count += 1
            if count == 1 and isinstance(called, PreparedModel):
                remember_inputs(called, given.bound(called.forward))
    if not _any_rank(count, device):
        raise CalibrationError("there was no batch to calibrate with", remedy="pass a loader that yields batches")
    join(state for quantizer in found.values() for state in quantizer.recorded())
    for name, quantizer in found.items():
        quantizer.settle()
        if not quantizer.ready:
            raise CalibrationError(
                f"the range of {name} is not finite", remedy="look for NaN or infinity in the data and the weights"
            )


@contextmanager
def _recording(model: nn.Module, found: Iterable[Quantizer]) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    found = tuple(found)
    model.eval()
    for quantizer in found:
        quantizer.recording = True
    try:
        yield
    finally:
        for quantizer in found:
            quantizer.recording = False
        for module, training in modes.items():
            module.training = training


def _arguments(batch: Any, model: nn.Module) -> Arguments:
    given = arguments_of(batch, model.forward)
    given.bound(model.forward)
    if isinstance(batch, Mapping) and given.args and isinstance(model, PreparedModel):
        first = next(node for node in model.graph.nodes if node.op == "placeholder")
        if ir.tensor_type(first) is not None:
            raise ConfigError(
                f"the batch is a dict of {sorted(map(str, batch))}, the model's argument {first.target} is a tensor",
                remedy=f"name the key {str(first.target)!r}, or pass batches as tensors or tuples",
            )
    return given


def _length(batches: Iterable[Any]) -> int | None:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        return None


def _any_rank(count: int, device: torch.device) -> bool:
    """Say whether any rank had a batch."""
    most = torch.tensor([float(count)], device=device)
    join([(most, "greatest")])
    return bool(most)


def _is_main() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


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
