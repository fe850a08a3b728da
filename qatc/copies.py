"""A copy of a user's model to run or to rewrite, whatever the model keeps on itself."""

import copy

from torch import nn

from qatc.nested import tensors


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy; tensors that the model keeps from an earlier run are copied as constants."""
    kept = [t for module in model.modules() for _, t in tensors(list(module.__dict__.values()))]
    memo = {id(t): t.detach().clone() for t in kept if t.grad_fn is not None}
    return copy.deepcopy(model, memo)
