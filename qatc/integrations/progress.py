"""What the callbacks share: recording once, and freezing by the share of a run that is done."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from qatc.api import calibrate, freeze_bn, freeze_ranges
from qatc.recording import quantizers


@dataclass(frozen=True)
class Freezing:
    """When statistics and ranges stop moving, as shares of a run's steps."""

    bn: float
    ranges: float

    def follow(self, model: nn.Module, done: float) -> None:
        """Freeze what is due; asked anew at each step, so a resumed run needs no state for it."""
        freeze_bn(model, done >= self.bn)
        freeze_ranges(model, done >= self.ranges)


def calibrated(model: nn.Module, batches: Iterable[Any]) -> None:
    """Record ranges, unless all are known already: from a checkpoint, or because the user did."""
    if not all(quantizer.ready for _, quantizer in quantizers(model)):
        calibrate(model, batches)
