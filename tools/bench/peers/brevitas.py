"""Brevitas: `preprocess_for_quantize` (folds BatchNorm), `quantize`, `export_onnx_qcdq`."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from brevitas.export import export_onnx_qcdq
from brevitas.graph import quantize as bq
from brevitas.graph.calibrate import calibration_mode
from brevitas.quant import (
    Int8ActPerTensorFixedPoint,
    Int8ActPerTensorFixedPointMSE,
    Int8ActPerTensorFloat,
    Int8ActPerTensorFloatMSE,
    Int8WeightPerChannelFloat,
    Uint8ActPerTensorFixedPoint,
    Uint8ActPerTensorFixedPointMSE,
    Uint8ActPerTensorFloat,
    Uint8ActPerTensorFloatMSE,
)
from brevitas.quant.fixed_point import Int8WeightPerChannelFixedPoint
from torch import Tensor, nn

from tools.bench.peers import Tool, Widths, run_over

# Of 8 bits, and of fewer: from the least square error, which in trials kept up to 15 points more there; likewise with
# scales that are powers of two.
_ACTIVATIONS = {
    Int8ActPerTensorFloat: (
        (Int8ActPerTensorFloat, Int8ActPerTensorFloatMSE),
        (Int8ActPerTensorFixedPoint, Int8ActPerTensorFixedPointMSE),
    ),
    Uint8ActPerTensorFloat: (
        (Uint8ActPerTensorFloat, Uint8ActPerTensorFloatMSE),
        (Uint8ActPerTensorFixedPoint, Uint8ActPerTensorFixedPointMSE),
    ),
}


class Brevitas(Tool):
    """Activation scales are learned, from percentiles or the least error; weights' follow the weights."""

    package = "brevitas"

    def prepare(self, model: nn.Module, calibration: Sequence[Tensor], widths: Widths) -> nn.Module:
        """Fold, insert by its tables with the widths asked for, and calibrate."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folded = bq.preprocess_for_quantize(model.eval(), equalize_iters=0)
            prepared: nn.Module = bq.quantize(
                folded,
                quant_identity_map=_widened(bq.QUANT_IDENTITY_MAP, widths),
                compute_layer_map=_layers(widths),
                quant_act_map=_widened(bq.QUANT_ACT_MAP, widths),
            )
            if widths.stem is not None:
                _widen_input(prepared, widths.stem)
            prepared.eval()
            with calibration_mode(prepared):
                run_over(prepared, calibration)
        return prepared

    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        """Write quantize, clip, dequantize."""
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            export_onnx_qcdq(
                copy.deepcopy(model),
                args=(example,),
                export_path=str(path),
                opset_version=17,
                input_names=["x"],
                dynamo=False,
            )


def _widened(table: dict[type, Any], widths: Widths) -> dict[type, Any]:
    return {
        kind: (made, {**options, "bit_width": widths.activations, "act_quant": _scaled(options["act_quant"], widths)})
        for kind, (made, options) in table.items()
    }


def _scaled(quantizer: Any, widths: Widths) -> Any:
    """Return what takes its place at these widths; the networks here use no others than those of the table."""
    table = _ACTIVATIONS.get(quantizer)
    return quantizer if table is None else table[widths.pow2][widths.activations < 8]


def _layers(widths: Widths) -> dict[type, Any]:
    given: dict[str, Any] = {
        "weight_quant": Int8WeightPerChannelFixedPoint if widths.pow2 else Int8WeightPerChannelFloat,
        # It calls lambdas, and no other functions.
        "weight_bit_width": lambda module, name: 8 if name == widths.stem else widths.weights,
    }
    if widths.weights == 2:
        given["weight_narrow_range"] = False  # of its four codes none can be spared
    composed = (nn.MultiheadAttention, nn.RNN, nn.LSTM)
    return {
        kind: entry if entry is None or kind in composed else (entry[0], {**entry[1], **given})
        for kind, entry in bq.COMPUTE_LAYER_MAP.items()
    }


def _widen_input(prepared: Any, layer: str) -> None:
    """Quantize what this layer reads to 8 bits; `prepared` is a GraphModule of Brevitas' own."""
    (call,) = [node for node in prepared.graph.nodes if node.target == layer]
    (quantizer,) = call.all_input_nodes
    made, options = bq.QUANT_IDENTITY_MAP["signed"]
    prepared.set_submodule(quantizer.target, made(**options))


TOOL = Brevitas()
