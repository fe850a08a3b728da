"""torch.ao's FX mode: `prepare_qat_fx`, the decomposed reference form, torch.onnx.export."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.ao.quantization as tq
from torch import Tensor, fx, nn
from torch.ao.nn.intrinsic.qat import freeze_bn_stats
from torch.ao.quantization.quantize_fx import _convert_to_reference_decomposed_fx, prepare_qat_fx

from tools.bench.peers import Tool, Unsupported, Widths, export_onnx, run_over

_HALF = 0.5


class TorchAOFX(Tool):
    """The default mapping of its oneDNN backend: unsigned activations, weights over the full range."""

    package = "torch"

    def version(self) -> str:
        """It is part of torch."""
        return f"torch.ao.quantization {torch.__version__}"

    def prepare(self, model: nn.Module, calibration: Sequence[Tensor], widths: Widths) -> nn.Module:
        """Insert, and show the batches with observers on."""
        if widths.pow2:
            raise Unsupported("scales that are powers of two")
        mapping = tq.get_default_qat_qconfig_mapping("onednn")
        if not widths.full:
            mapping.set_global(_qconfig(widths.weights, widths.activations))
        if widths.stem is not None:
            mapping.set_module_name(widths.stem, _qconfig(8, 8))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prepared: nn.Module = prepare_qat_fx(model.train(), mapping, (calibration[0],))
            run_over(prepared.eval(), calibration)
        return prepared

    def train(self, model: nn.Module) -> None:
        """Observers move in training."""
        model.train()
        model.apply(tq.enable_observer)

    def advance(self, model: nn.Module, done: float) -> None:
        """Stop observers and statistics as torchvision's reference for quantized training does at the half of it."""
        if done >= _HALF:
            model.apply(tq.disable_observer)
            model.apply(freeze_bn_stats)

    def evaluate(self, model: nn.Module) -> None:
        """They would move in evaluation too."""
        model.eval()
        model.apply(tq.disable_observer)

    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        """Convert to the reference form and export that."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert isinstance(model, fx.GraphModule)
            converted = _convert_to_reference_decomposed_fx(copy.deepcopy(model)).eval()
        export_onnx(converted, example, path, dynamo=True)


def _qconfig(weights: int, activations: int) -> tq.QConfig:
    half = 2 ** (weights - 1)
    activation = tq.FusedMovingAvgObsFakeQuantize.with_args(
        observer=tq.MovingAverageMinMaxObserver, quant_min=0, quant_max=2**activations - 1, dtype=torch.quint8
    )
    weight = tq.FusedMovingAvgObsFakeQuantize.with_args(
        observer=tq.MovingAveragePerChannelMinMaxObserver,
        quant_min=-half,
        quant_max=half - 1,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
    )
    return tq.QConfig(activation=activation, weight=weight)


TOOL = TorchAOFX()
