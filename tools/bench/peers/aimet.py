"""AIMET: `prepare_model`, `fold_all_batch_norms`, `QuantizationSimModel` with learned ranges, its own ONNX export."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tools.bench.peers import Tool, Unsupported, Widths, run_over
from tools.models import torchvision_models

torchvision_models()  # AIMET imports torchvision, which this makes importable beside a CPU build of torch

import aimet_torch  # noqa: E402
from aimet_torch import model_preparer  # noqa: E402
from aimet_torch.batch_norm_fold import fold_all_batch_norms  # noqa: E402
from aimet_torch.common.defs import QuantScheme  # noqa: E402
from aimet_torch.quantsim import QuantizationSimModel  # noqa: E402

_FULL = 8
_RANGES = QuantScheme.training_range_learning_with_tf_init
# In trials these kept up to 35 points more there.
_RANGES_OF_FEWER_BITS = QuantScheme.training_range_learning_with_tf_enhanced_init
_LEAST = 4  # bits of activations that the constructor takes; a quantizer itself takes fewer


class Aimet(Tool):
    """BatchNorm is folded before training, as its guide does where batch norm re-estimation is not used."""

    package = "aimet-torch"
    _sim: QuantizationSimModel
    _narrow = False

    def prepare(self, model: nn.Module, calibration: Sequence[Tensor], widths: Widths) -> nn.Module:
        """Prepare, fold, insert, and compute encodings."""
        if widths.pow2:
            raise Unsupported("scales that are powers of two")
        logging.disable(logging.WARNING)
        self._narrow = not widths.full
        example = calibration[0]
        config = Path(aimet_torch.__file__).parent / "common/quantsim_config/default_config_per_channel.json"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prepared = model_preparer.prepare_model(model.eval())
            fold_all_batch_norms(prepared, input_shapes=tuple(example.shape), dummy_input=(example,))
            self._sim = QuantizationSimModel(
                prepared,
                (example,),
                quant_scheme=_RANGES if widths.activations == _FULL else _RANGES_OF_FEWER_BITS,
                default_output_bw=max(widths.activations, _LEAST),
                default_param_bw=widths.weights,
                config_file=str(config),
                in_place=True,
            )
            if widths.activations < _LEAST:
                for module in self._sim.qmodules():
                    for quantizer in (*module.input_quantizers, *module.output_quantizers):
                        if quantizer is not None:
                            quantizer.bitwidth = widths.activations
            if widths.stem is not None:
                stem = self._sim.model.get_submodule(widths.stem)
                for quantizer in (*stem.input_quantizers, stem.param_quantizers["weight"]):
                    if quantizer is not None:
                        quantizer.bitwidth = 8
            self._sim.model.eval()
            self._sim.compute_encodings(lambda m, _: run_over(m, calibration), None)
        result: nn.Module = self._sim.model
        return result

    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        """Write QDQ, biases in float: ONNX Runtime 1.31 makes nonsense of a Gemm with an int32 bias per channel."""
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            aimet_torch.onnx.export(
                model,
                (example,),
                str(path),
                input_names=["x"],
                opset_version=21 if self._narrow else 17,  # the first with types of 4 bits
                dynamo=False,
                prequantize_constants=True,
                export_int32_bias=False,
            )


TOOL = Aimet()
