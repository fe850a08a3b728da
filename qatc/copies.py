"""A copy of a user's model to run or to rewrite, whatever the model keeps on itself."""

import copy

import torch
from torch import nn

from qatc.nested import tensors


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy; tensors that the model keeps from an earlier run are copied as constants."""
    kept = [t for module in model.modules() for _, t in tensors(list(module.__dict__.values()))]
    memo = {id(t): t.detach().clone() for t in kept if t.grad_fn is not None}
    with torch.no_grad():  # a scripted module's copy would have the original's parameters as its history
        twin = copy.deepcopy(model, memo)
    for parameter, original in zip(twin.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(original.requires_grad)
    return twin
