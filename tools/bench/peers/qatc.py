"""qatc, with the settings that it recommends for the widths asked for."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

import qatc
from qatc.config.presets import PRESETS
from qatc.modules.batch_norms import BatchNorm
from tools.bench.peers import Tool, Widths
from tools.digits import FREEZE_BN, FREEZE_RANGES


class QATC(Tool):
    """The presets' quantizers at other widths, for every layer alike: no layer is kept at 8 bits for free."""

    package = "qatc"
    _measures = False

    def version(self) -> str:
        """Return the source's own version: it need not be installed."""
        return f"qatc {qatc.__version__}"

    def prepare(self, model: nn.Module, calibration: Sequence[Tensor], widths: Widths) -> nn.Module:
        """Prepare and calibrate."""
        # A power of two is chosen for the folded weight, so statistics that move at the end would change its codes.
        self._measures = _few_bits(widths) and not widths.pow2
        prepared = qatc.prepare(model, (calibration[0],), config=config(widths))
        qatc.calibrate(prepared, calibration, progress=False)
        return prepared

    def advance(self, model: nn.Module, done: float) -> None:
        """Stop statistics, as the demo does, where `finish` does not measure them anew; then ranges."""
        if done >= FREEZE_BN and not self._measures:
            qatc.freeze_bn(model)
        if done >= FREEZE_RANGES:
            qatc.freeze_ranges(model)

    def finish(self, model: nn.Module, batches: Sequence[Tensor]) -> None:
        """Measure statistics anew, as docs/accuracy.md advises for few bits."""
        if self._measures and any(isinstance(module, BatchNorm) for module in model.modules()):
            qatc.reestimate_bn(model, batches, progress=False)

    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        """Lower for ONNX Runtime."""
        assert isinstance(model, qatc.PreparedModel)
        qatc.lower(model, path)


def config(widths: Widths) -> qatc.QConfig:
    """Return the configuration of these widths."""
    narrow = PRESETS["w4a4" if _few_bits(widths) else "w8a8"].default
    default = dataclasses.replace(narrow, weight_bits=widths.weights, activation_bits=widths.activations)
    rules = () if widths.stem is None else (qatc.Rule(widths.stem, weight_bits=8, activation_bits=8),)
    return qatc.QConfig(default, rules, widths.pow2 and ("round" if _few_bits(widths) else "up"))


def _few_bits(widths: Widths) -> bool:
    return min(widths.weights, widths.activations) < 8


TOOL = QATC()
