"""Quantization without training in one call: prepare, refine, calibrate."""

from collections.abc import Collection, Iterable, Iterator
from os import PathLike
from typing import Any

from torch import nn

from qatc.api import calibrate, prepare
from qatc.bn_reestimation import reestimate_bn
from qatc.config import QConfig
from qatc.errors import CalibrationError, unknown
from qatc.prepared import PreparedModel
from qatc.ptq.clip_weights import clip_weights
from qatc.ptq.correct_biases import correct_biases
from qatc.ptq.equalize import equalize
from qatc.targets import Target

# What can be done beside calibration, in the order in which it is done.
REFINEMENTS = ("equalize", "clip_weights", "reestimate_bn", "correct_biases")
# So many batches correct biases: what every layer gives for them is held at once.
_BATCHES_HELD = 16


def quantize(
    model: nn.Module,
    batches: Iterable[Any],
    target: str | Target | None = None,
    config: str | PathLike[str] | QConfig = "w8a8",
    *,
    refine: Collection[str] = (),
    progress: bool = True,
) -> PreparedModel:
    """Return the float model quantized for the target with ranges from data: ready to lower, or to train.

    It is `prepare`, `calibrate` and, of the functions of the same names, those in `refine`: `equalize` and
    `clip_weights` before calibration, `reestimate_bn` and `correct_biases` (on the first 16 batches) behind it.

    Args:
        model: the float model; it is not changed.
        batches: as for `calibrate`; gone through several times, so an iterator is made a list. The first one is the
            example that the model is traced with.
        target: as for `prepare`.
        config: as for `prepare`.
        refine: names of what to do beside calibration: `equalize`, `clip_weights`, `reestimate_bn`, `correct_biases`.
        progress: whether to show progress bars.

    Raises:
        TraceError, ConfigError: as `prepare` does, or an unknown refinement.
        CalibrationError: no batch, or values that are not finite.

    """
    for name in refine:
        if name not in REFINEMENTS:
            raise unknown("refinement", name, REFINEMENTS, "choose among {}")
    batches = list(batches) if isinstance(batches, Iterator) else batches
    example = next(iter(batches), None)
    if example is None:
        raise CalibrationError("there was no batch to calibrate with", remedy="pass a loader that yields batches")
    prepared = prepare(model, example, target, config)
    if "equalize" in refine:
        equalize(prepared)
    if "clip_weights" in refine:
        clip_weights(prepared)
    calibrate(prepared, batches, progress=progress)
    if "reestimate_bn" in refine:
        reestimate_bn(prepared, batches, progress=progress)
        calibrate(prepared, batches, progress=progress)  # layers behind a BatchNorm see other values now
    if "correct_biases" in refine:
        correct_biases(prepared, batches, steps=_BATCHES_HELD, progress=progress)
    return prepared
