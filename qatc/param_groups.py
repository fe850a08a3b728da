"""The parameters of a prepared model in the groups that an optimizer should treat apart."""

from typing import Any

from torch import nn

from qatc.modules.batch_norms import BatchNorm
from qatc.quantizers.base import Quantizer

_NORMS = (BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.LocalResponseNorm)


def param_groups(
    model: nn.Module,
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    scale_lr: float | None = None,
    decay_biases: bool = True,
    decay_norms: bool = True,
) -> list[dict[str, Any]]:
    """Return parameter groups for any torch optimizer: what quantizers learn is a group without weight decay.

    Decay pulls a weight towards zero, which is where weights are; a scale or the end of a range has no reason to be
    there. Each group has a `name`: "weights", "scales" and, where they are asked for, "no decay". A parameter that
    several modules share is in one group, once.

    Args:
        model: what `qatc.prepare` returned, alone or inside wrappers and other modules.
        lr: the learning rate of all groups; None leaves the optimizer's default.
        weight_decay: that of the weights; None leaves the optimizer's default.
        scale_lr: the learning rate of what quantizers learn; None is that of the others.
        decay_biases: whether biases decay.
        decay_norms: whether the factors and shifts of normalizations do.

    """
    scales: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    weights: list[nn.Parameter] = []
    seen: set[nn.Parameter] = set()
    # Quantizers first: theirs is the say on a parameter that another module holds too.
    for module in sorted(model.modules(), key=lambda module: not isinstance(module, Quantizer)):
        for name, parameter in module.named_parameters(recurse=isinstance(module, Quantizer)):
            if parameter in seen:
                continue
            seen.add(parameter)
            if isinstance(module, Quantizer):
                scales.append(parameter)
            elif (isinstance(module, _NORMS) and not decay_norms) or (name.endswith("bias") and not decay_biases):
                plain.append(parameter)
            else:
                weights.append(parameter)
    groups: list[dict[str, Any]] = [
        {"name": "weights", "params": weights, **_given(lr=lr, weight_decay=weight_decay)},
        {"name": "no decay", "params": plain, "weight_decay": 0.0, **_given(lr=lr)},
        {"name": "scales", "params": scales, "weight_decay": 0.0, **_given(lr=lr if scale_lr is None else scale_lr)},
    ]
    return [group for group in groups if group["params"]]


def _given(**settings: float | None) -> dict[str, float]:
    return {name: value for name, value in settings.items() if value is not None}
