"""NNCF: `nncf.quantize` inserts and calibrates trainable quantizers, `nncf.strip`, torch.onnx.export."""

import copy
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import nncf
import torch
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
from torch import Tensor, nn

from tools.bench.peers import Tool, Unsupported, Widths, export_onnx

# Its kernels are compiled when they are first needed, which on a busy machine takes longer than the minute it waits.
os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "600")
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix, "torch_extensions")))


class NNCF(Tool):
    """Weights use their full range: its fix for CPUs without VNNI would cost every network a bit."""

    package = "nncf"

    def prepare(self, model: nn.Module, calibration: Sequence[Tensor], widths: Widths) -> nn.Module:
        """Insert and calibrate in one call."""
        if widths.pow2:
            raise Unsupported("scales that are powers of two")
        if (widths.weights, widths.activations) != (8, 8):
            raise Unsupported("widths other than 8, which nncf.quantize refuses for its default target")
        nncf.set_log_level(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            prepared: nn.Module = nncf.quantize(
                model.eval(),
                nncf.Dataset(list(calibration)),
                subset_size=len(calibration),
                advanced_parameters=AdvancedQuantizationParameters(overflow_fix=OverflowFix.DISABLE),
            )
        return prepared

    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        """Strip to torch's own fake quantization and export that."""
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            stripped = nncf.strip(copy.deepcopy(model), do_copy=False, example_input=(example,))
        export_onnx(stripped.eval(), example, path, dynamo=False)


TOOL = NNCF()
