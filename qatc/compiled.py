"""What torch.compile needs to be told so that the gradients are those of the model as it is."""

import torch
from torch import Tensor


@torch.library.custom_op("qatc::as_it_is_now", mutates_args=())
def _as_it_is_now(x: Tensor) -> Tensor:
    return x.clone()


@_as_it_is_now.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def as_it_is_now(x: Tensor) -> Tensor:
    """Return x, a buffer that this pass moves, or what is computed from one; no gradient passes.

    A compiled backward pass may read such a buffer again instead of keeping what the forward pass made of it, and finds
    what it moved to: gradients are then wrong in silence (https://github.com/pytorch/pytorch/pull/197039, open). The
    partitioner computes no custom op twice. Eager autograd keeps what it needs.
    """
    if not torch.compiler.is_compiling() or x.requires_grad:
        return x
    result: Tensor = _as_it_is_now(x)
    return result
