"""How much of a model's arithmetic runs on integer codes, in multiply-adds."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import qatc
from qatc.lowering.fold_constants import FoldConstants
from tools.zoo_suites.agreement import copied
from tools.zoo_suites.entry import Inputs
from tools.zoo_suites.weights import call


@dataclass(frozen=True)
class Compute:
    """Multiply-adds of a model: all of the original's, all of the prepared one's, and those of its quantized ops.

    `folded` are those of the prepared one that are not in its file: of parameters alone, which lowering computes.
    """

    original: int
    prepared: int
    quantized: int
    folded: int

    @property
    def share(self) -> float:
        """The share of the original's, but for the folded ones, that runs quantized, at most 1; 0 if there are none."""
        running = self.original - self.folded
        return min(1.0, self.quantized / running) if running else 0.0


def compute_of(original: nn.Module, prepared: qatc.PreparedModel, inputs: Inputs) -> Compute:
    """Count both models' multiply-adds on some inputs, in eval mode.

    They are counted where torch runs them: types of a graph's tensors would not do, as a dimension of windows or heads
    that follows the batch has no size there.
    """
    rows = prepared.report.rows
    names = {row.name for row in rows if row.quantized and "float" not in row.inputs}
    folded = copy.deepcopy(prepared)
    FoldConstants().run(folded)
    with qatc.float_mode(prepared), qatc.float_mode(folded):
        whole = multiply_adds(prepared, inputs)[0]
        running, quantized = multiply_adds(folded, inputs, names)
    return Compute(multiply_adds(original, inputs)[0], whole, quantized, whole - running)


def multiply_adds(model: nn.Module, inputs: Inputs, names: set[str] | frozenset[str] = frozenset()) -> tuple[int, int]:
    """Return the multiply-adds of a call in eval mode, and how many of them are in the modules of these names."""
    model.eval()
    inside = 0
    # With gradients, as torch's fused forms of attention layers, which it does not count, are for inference alone.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), _counting() as total:

        def enter(module: nn.Module, _: Any) -> None:
            nonlocal inside
            inside -= total()

        def leave(module: nn.Module, *_: Any) -> None:
            nonlocal inside
            inside += total()

        hooks = [
            hook
            for name, module in model.named_modules()
            if name in names
            for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
        ]
        try:
            call(model, copied(inputs))
        finally:
            for hook in hooks:
                hook.remove()
        return total(), inside


@contextmanager
def _counting() -> Iterator[Callable[[], int]]:
    rnn = torch.ops.aten.mkldnn_rnn_layer
    with FlopCounterMode(display=False, custom_mapping={rnn: _rnn_flops}) as counter:
        yield lambda: counter.get_total_flops() // 2


def _rnn_flops(input: Any, weight: Any, recurrent: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    steps = input[0] * input[1]
    return 2 * int(steps * (weight[0] * weight[1] + recurrent[0] * recurrent[1]))
