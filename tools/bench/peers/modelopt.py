"""NVIDIA ModelOpt: `mtq.quantize` with INT8_DEFAULT_CFG, and torch.onnx.export.

It quantizes the inputs and weights of layers alone (no residual sums, no outputs) and leaves BatchNorm as it is.
"""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path

import modelopt.torch.quantization as mtq
from torch import Tensor, nn

from tools.bench.peers import Tool, Unsupported, Widths, export_onnx, run_over


class ModelOpt(Tool):
    """Ranges are set by `mtq.quantize` and stay; weights' follow the weights."""

    package = "nvidia-modelopt"

    def prepare(self, model: nn.Module, calibration: Sequence[Tensor], widths: Widths) -> nn.Module:
        """Insert and calibrate in one call."""
        if widths.pow2:
            raise Unsupported("scales that are powers of two")
        config = copy.deepcopy(mtq.INT8_DEFAULT_CFG)
        if not widths.full:
            config["quant_cfg"] = [
                *config["quant_cfg"],
                {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": widths.weights, "axis": 0}},
                {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": widths.activations, "axis": None}},
            ]
        if widths.stem is not None:
            config["quant_cfg"] += [
                {"quantizer_name": f"{widths.stem}.weight_quantizer", "cfg": {"num_bits": 8, "axis": 0}},
                {"quantizer_name": f"{widths.stem}.input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
            ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prepared: nn.Module = mtq.quantize(model.eval(), config, lambda m: run_over(m, calibration))
        return prepared

    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        """Write by the old exporter, as ModelOpt's documentation does; it has no form below 8 bits."""
        export_onnx(copy.deepcopy(model), example, path, dynamo=False, do_constant_folding=True)


TOOL = ModelOpt()
