"""Which modules stay calls of themselves in the graph, and which are looked into."""

import torch
from torch import nn
from torch.nn.utils import parametrize

from qatc.modules.fused import Fused
from qatc.quantizers.base import Quantizer

# Modules of torch that hold others; what they do is in their parts.
_LOOKED_INTO = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict, nn.Transformer,
    nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.TransformerDecoder, nn.TransformerDecoderLayer,
)  # fmt: skip
_FROZEN_NORM = {"weight", "bias", "running_mean", "running_var"}


def is_leaf(module: nn.Module) -> bool:
    """Say whether the graph calls the module itself.

    Layers of torch and of qatc do; so do a user's modules that act differently in training and hold nothing (DropPath),
    since what they do in eval mode is not what they are, and those that are a frozen BatchNorm.
    """
    if isinstance(module, Fused | Quantizer | torch.jit.ScriptModule) or type(module).__module__.startswith("qatc."):
        return True
    if type(module).__module__ == "torch.nn.utils.parametrizations":
        return True  # a spectral norm iterates in training alone
    if type(module).__module__.startswith("torch.nn.modules"):
        return not isinstance(module, _LOOKED_INTO) and not computes_its_weight(module)
    return is_frozen_norm(module) or (is_empty(module) and reads_training(type(module), "forward"))


def computes_its_weight(module: nn.Module) -> bool:
    """Say whether a layer's weight is computed before each call: weight_norm, spectral_norm, parametrizations."""
    hooks = module._forward_pre_hooks.values()
    return parametrize.is_parametrized(module) or any(
        type(hook).__name__ in ("WeightNorm", "SpectralNorm") for hook in hooks
    )


def is_empty(module: nn.Module) -> bool:
    """Say whether a module has no parameters, buffers or submodules."""
    return not (module._parameters or module._buffers or module._modules)


def is_frozen_norm(module: nn.Module) -> bool:
    """Say whether a module is a BatchNorm all of whose parameters are buffers."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    return set(module._buffers) == _FROZEN_NORM and not any(p is not None for p in module._parameters.values())


def reads_training(kind: type[nn.Module], only: str = "") -> bool:
    """Say whether the code of a user's module class asks for `self.training` (in the method named, or in any)."""
    for base in kind.__mro__:
        if base.__module__.startswith("torch.nn"):
            return False
        for name, value in vars(base).items():
            code = getattr(value, "__code__", None)
            if (not only or name == only) and code is not None and "training" in code.co_names:
                return True
        if only in vars(base):
            return False
    return False
