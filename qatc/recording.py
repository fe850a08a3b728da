"""From what quantizers recorded to their ranges."""

from collections.abc import Iterator

from torch import nn

from qatc import ir
from qatc.errors import CalibrationError
from qatc.modules.fused import Fused
from qatc.prepared import PreparedModel
from qatc.quantizers import Quantizer
from qatc.weights import weight_to_quantize


def quantizers(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """Yield every quantizer of a prepared model with its name."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, Quantizer))


def settle(model: nn.Module) -> None:
    """Set every range from what was recorded.

    Raises:
        CalibrationError: what was recorded is not finite.

    """
    for name, quantizer in quantizers(model):
        if not quantizer.settle():
            raise CalibrationError(
                f"the range of {name} is not finite", remedy="look for NaN or infinity in the data and the weights"
            )


def begin_weights(model: PreparedModel) -> None:
    """Set what weight quantizers learn from the weights as they are, as `prepare` did from those it was given."""
    for node, module in ir.module_calls(model):
        if isinstance(module, Fused) and module.weight_quantizer is not None:
            quantizer = module.weight_quantizer
            quantizer.begin(weight_to_quantize(model, node, module, quantizer.spec.axis))
