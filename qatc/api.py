"""The calls of a training script: prepare, calibrate, freeze."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from qatc.errors import CalibrationError, ConfigError
from qatc.modules.fused import Fused
from qatc.passes import qat_pipeline
from qatc.pipeline import DumpFolder
from qatc.prepared import PreparedFor, PreparedModel, remember, remember_inputs
from qatc.quantizers import Quantizer
from qatc.spec import QConfig, config_of
from qatc.targets import Target, target_of
from qatc.trace import as_inputs, trace

log = logging.getLogger("qatc")


def prepare(
    model: nn.Module,
    example_inputs: Any = None,
    target: str | Target = "onnxruntime",
    config: str | QConfig = "w8a8",
    *,
    dump_dir: str | Path | None = None,
) -> PreparedModel:
    """Return a copy of the model that trains with the quantization it will deploy with on `target`.

    Args:
        model: the float model, as written; it is not changed.
        example_inputs: a tensor, or a tuple of the model's positional arguments; gives shapes to reports and dumps.
        target: where it will run; decides where quantizers stand, so it is chosen before training.
        config: a preset (`w8a8`, `w8a8-pow2`, `w4a4`, `w4a4-pow2`) or a `QConfig`.
        dump_dir: a folder for the numbered text dump after each pass that changed something.

    Raises:
        TraceError: the model's Python depends on data.
        ConfigError: an unknown target or config, or a rule that matches no layer.

    """
    target, config = target_of(target), config_of(config)
    inputs = None if example_inputs is None else as_inputs(example_inputs)
    gm = trace(model, inputs)
    dumps = None if dump_dir is None else DumpFolder(Path(dump_dir))
    if dumps is not None:
        dumps.start(gm)
    qat_pipeline(target, config).run(gm, () if dumps is None else (dumps,))
    if not any(isinstance(module, Quantizer) for module in gm.modules()):
        raise ConfigError(
            f"nothing in {type(model).__name__} can be quantized for {target.name}",
            remedy="check that the model has layers of the target's table, and that no rule excludes them all",
        )
    remember(gm, PreparedFor(target, config))
    if inputs is not None:
        remember_inputs(gm, [x for x in inputs if isinstance(x, Tensor)])
    log.info("%s for %s: %s", type(model).__name__, target.name, gm.report.summary)
    return gm


def quantizers(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """Yield every quantizer of a prepared model with its name."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, Quantizer))


def calibrate(model: nn.Module, batches: Iterable[Any], *, steps: int | None = None, progress: bool = True) -> None:
    """Set the first ranges from data: run the model in eval mode on up to `steps` batches, recording only.

    A batch is a tensor, a tuple or list whose first items are the model's inputs (further ones, as labels, are left
    out), or a dict of keyword arguments. The model's mode is restored; its parameters and statistics do not move.

    Raises:
        CalibrationError: no batch, or values that are not finite.

    """
    found = dict(quantizers(model))
    if not found:
        raise CalibrationError("the model has no quantizers", remedy="call qatc.prepare(model) first")
    placeholders = [n for n in model.graph.nodes if n.op == "placeholder"] if isinstance(model, PreparedModel) else [0]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    total = steps if steps is not None else _length(batches)
    count = 0
    with _recording(model, found.values()), torch.no_grad():
        bar = tqdm(islice(batches, steps), "calibrate", total, disable=None if progress and _is_main() else True)
        for batch in bar:
            args, kwargs = _arguments(batch, len(placeholders), device)
            model(*args, **kwargs)
            count += 1
            if count == 1 and isinstance(model, PreparedModel) and not kwargs:
                remember_inputs(model, args)
    if count == 0:
        raise CalibrationError("there was no batch to calibrate with", remedy="pass a loader that yields batches")
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


def _arguments(batch: Any, wanted: int, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def moved(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    if isinstance(batch, dict):
        return (), {name: moved(value) for name, value in batch.items()}
    given = tuple(batch)[:wanted] if isinstance(batch, list | tuple) else (batch,)
    return tuple(map(moved, given)), {}


def _length(batches: Iterable[Any]) -> int | None:
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:
        return None


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
