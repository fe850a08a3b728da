"""What a leaf gives, as fake tensors: like its input, or by a run on fake tensors, or on real ones at two batches."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from qatc.nested import map_leaves, map_tensors, tensors
from qatc.tracing.sizes import Sizes

# Layers whose result is like their input; running their decompositions would be most of a tracing's time.
_LIKE_INPUT = (
    nn.modules.batchnorm._BatchNorm, nn.Identity, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.SiLU, nn.GELU, nn.Hardswish,
    nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.modules.dropout._DropoutNd, nn.LayerNorm,
    nn.GroupNorm, nn.Softmax,
)  # fmt: skip


def fake_outcome(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the result on fake tensors; None where the module does not run on them."""
    given = args[0] if len(args) == 1 and not kwargs else None
    plain = not (module._forward_hooks or module._forward_pre_hooks or getattr(module, "inplace", False))
    if plain and isinstance(module, _LIKE_INPUT) and isinstance(given, Tensor) and given.is_floating_point():
        return torch.empty_like(given)
    try:
        return type(module).__call__(module, *args, **kwargs)
    except Exception:  # `real_outcome` follows, which raises what is wrong with the module itself
        return None


def real_outcome(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], sizes: Sizes) -> Any:
    """Return the result's fake tensors, from two real runs: a dimension that differs follows the batch.

    The inputs are random numbers, zeros (integers) and ones (masks) of the right shapes.
    """
    results = []
    for batch_step in (0, 1):
        with unset_fake_temporarily(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            real = partial(_real, sizes, batch_step)
            real_args, real_kwargs = map_leaves(real, (args, dict(kwargs)))
            results.append(type(module).__call__(module, *real_args, **real_kwargs))
    second = iter(tensor for _, tensor in tensors(results[1]))
    return map_tensors(lambda first: _fake(first, next(second), sizes), results[0])


def _real(sizes: Sizes, batch_step: int, leaf: Any) -> Any:
    """Return a real value like a fake one, at the example's batch size or one more."""

    def number(size: Any) -> int:
        expression = sizes.expression(size)
        grown = {s: v + batch_step for s, v in sizes.values().items() if sizes.follows_batch(s)}
        return int(expression.xreplace(grown).xreplace(sizes.values()))

    if isinstance(leaf, FakeTensor):
        shape = [number(size) for size in leaf.shape]
        if leaf.dtype.is_floating_point:
            return torch.rand(shape, device=leaf.device).to(leaf.dtype)
        make = torch.ones if leaf.dtype == torch.bool else torch.zeros
        return make(shape, dtype=leaf.dtype, device=leaf.device)
    return number(leaf) if isinstance(leaf, torch.SymInt) else leaf


def _fake(first: Tensor, second: Tensor, sizes: Sizes) -> Tensor:
    """Return a fake tensor whose sizes, where they differ, are a multiple of the batch and an offset."""
    batch = next(iter(sizes.batch), None)
    shape: list[Any] = []
    for small, large in zip(first.shape, second.shape, strict=True):
        if small == large or batch is None:
            shape.append(int(small))
        else:
            factor, value = large - small, sizes.values()[batch]
            node = sizes.create_symintnode(factor * batch + (small - factor * int(value)), hint=int(small))
            shape.append(node)
    return torch.empty(shape, dtype=first.dtype, device=first.device)
