"""Weights and statistics as training leaves them, for models that were never trained."""

from typing import Any

import torch
from torch import Tensor, nn

from tools.models import measure_batch_norms
from tools.zoo_suites.entry import Inputs

_TINY = 1e-3  # a constant below this is a layer scale that begins next to nothing


def randomise(model: nn.Module, inputs: Inputs, seed: int = 0) -> nn.Module:
    """Move everything that begins as a constant away from it, and fit BatchNorms' statistics to `inputs`.

    What begins at 1 (the factors of normalisations), at 0 (biases, heads, residual factors) or next to 0 (layer scales)
    would otherwise hide what a wrong rewrite does to it.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = {id(p) for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) for p in m.parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in norms and parameter.numel() and parameter.is_floating_point():
                _move(parameter, generator)
        for module in model.modules():
            if is_frozen_batch_norm(module):
                _thaw(module, generator)

    def show() -> None:
        model.eval()
        for module in model.modules():  # statistics move, nothing is dropped
            module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
        call(model, inputs)

    measure_batch_norms(model, show, generator)
    return model.eval()


def _move(parameter: Tensor, generator: torch.Generator) -> None:
    low, high = float(parameter.min()), float(parameter.max())
    if low != high:
        return
    noise = torch.randn(parameter.shape, generator=generator)
    parameter.copy_(0.3 + 0.05 * noise if 0 < abs(low) < _TINY else low * (1 + 0.1 * noise) + 0.02 * noise)


def is_frozen_batch_norm(module: nn.Module) -> bool:
    """Say whether the module is a BatchNorm whose parameters are buffers too, as detectors have them."""
    return not list(module.parameters(recurse=False)) and {name for name, _ in module.named_buffers(recurse=False)} == {
        "weight", "bias", "running_mean", "running_var"
    }  # fmt: skip


def _thaw(module: Any, generator: torch.Generator) -> None:
    for name, middle, spread in (
        ("weight", 1.0, 0.1), ("bias", 0.3, 0.2), ("running_mean", 0.0, 0.1), ("running_var", 1.0, 0.1)
    ):  # fmt: skip
        buffer = getattr(module, name)
        buffer.copy_((middle + spread * torch.randn(buffer.shape, generator=generator)).clamp_(min=-0.5))


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Call the model with positional or with keyword arguments."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)
