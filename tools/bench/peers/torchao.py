"""torchao's PT2E: torch.export, `prepare_qat_pt2e` with the XNNPACK quantizer, `convert_pt2e`, torch.onnx.export."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torchao.quantization import pt2e
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

from tools.bench.peers import Tool, Unsupported, Widths, export_onnx, run_over

_OBSERVED, _FOLLOWED = 0.4, 0.3  # shares of the training
_BATCH_NORMS = (torch.ops.aten.batch_norm.default, torch.ops.aten._native_batch_norm_legit.default)
_TRAINING = 5  # the argument of a batch normalization that says so


class TorchAO(Tool):
    """Its quantizers of the x86 backend have 8 bits alone, so the one of XNNPACK is taken, whose widths can be set."""

    package = "torchao"

    def prepare(self, model: nn.Module, calibration: Sequence[Tensor], widths: Widths) -> nn.Module:
        """Export in training mode, insert, and show the batches with observers on."""
        if widths.pow2:
            raise Unsupported("scales that are powers of two")
        quantizer = XNNPACKQuantizer().set_global(_config(widths.weights, widths.activations))
        if widths.stem is not None:
            quantizer.set_module_name(widths.stem, _config(8, 8))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sizes = ({0: torch.export.Dim.AUTO},)  # as its tutorial has it: evaluation has other batches
            program = torch.export.export(model.train(), (calibration[0],), dynamic_shapes=sizes, strict=False)
            prepared = prepare_qat_pt2e(program.module(), quantizer)
        prepared = pt2e.allow_exported_model_train_eval(prepared)
        pt2e.move_exported_model_to_eval(prepared)
        run_over(prepared, calibration)
        result: nn.Module = prepared
        return result

    def train(self, model: nn.Module) -> None:
        """Observers move in training."""
        pt2e.move_exported_model_to_train(model)
        model.apply(pt2e.enable_observer)

    def advance(self, model: nn.Module, done: float) -> None:
        """Stop observers and statistics as its tutorial does after four and three of ten epochs."""
        if done >= _OBSERVED:
            model.apply(pt2e.disable_observer)
        if done >= _FOLLOWED:
            _freeze_batch_norms(model)

    def evaluate(self, model: nn.Module) -> None:
        """They would move in evaluation too."""
        pt2e.move_exported_model_to_eval(model)
        model.apply(pt2e.disable_observer)

    def export(self, model: nn.Module, example: Tensor, path: Path) -> None:
        """Convert to the reference form and export that."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = convert_pt2e(copy.deepcopy(model))
            pt2e.move_exported_model_to_eval(converted)
        export_onnx(converted, example, path, dynamo=True)


def _config(weights: int, activations: int) -> object:
    half, half_weight = 2 ** (activations - 1), 2 ** (weights - 1)
    return get_symmetric_quantization_config(
        is_per_channel=True,
        is_qat=True,
        act_qmin=-half,
        act_qmax=half - 1,
        # Its own default for 8 bits is narrow; of the four codes of 2 bits none can be spared.
        weight_qmin=-half_weight + 1 if weights > 2 else -half_weight,
        weight_qmax=half_weight - 1,
    )


def _freeze_batch_norms(model: nn.Module) -> None:
    assert isinstance(model, fx.GraphModule)
    norms = [node for node in model.graph.nodes if node.target in _BATCH_NORMS and node.args[_TRAINING]]
    for node in norms:
        node.args = (*node.args[:_TRAINING], False, *node.args[_TRAINING + 1 :])
    if norms:
        model.recompile()


TOOL = TorchAO()
