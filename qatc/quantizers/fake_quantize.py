"""Quantize and dequantize in one differentiable step."""

from typing import Any

import torch
from torch import Tensor

from qatc import native
from qatc.grid import BIAS_CODES, LARGEST_BIAS_CODE, MIN_SCALE, Grid
from qatc.native import Bounds
from qatc.quantizers import kernels
from qatc.quantizers.kernels import Tracking
from qatc.spec import QuantSpec


class _Masked(torch.autograd.Function):
    """Straight-through estimator: the gradient is 1 where the value was not clipped, 0 where it was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec, overwrite: bool) -> Tensor:
        return _kept(ctx, x, kernels.quantize(x, Grid(scale, zero_point), spec, overwrite=overwrite), spec, overwrite)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (clipped,) = ctx.saved_tensors
        grad = grads[0]
        if ctx.some:
            layout = torch.contiguous_format if ctx.contiguous else torch.channels_last
            packed = clipped.dtype != torch.bool
            grad = grad.contiguous(memory_format=layout) if packed else grad
            grad = kernels.pass_unclipped(grad, clipped, ctx.axis)
        return grad, None, None, None, None


class _Tracked(torch.autograd.Function):
    """The same, the range following the tensor first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, averages: Tensor, how: Tracking, spec: QuantSpec, overwrite: bool) -> Tensor:
        return _kept(ctx, x, kernels.track(x, averages, how, spec, overwrite=overwrite), spec, overwrite)

    backward = _Masked.backward


def _kept(ctx: Any, x: Tensor, made: kernels.Quantized, spec: QuantSpec, overwrite: bool) -> Tensor:
    """Keep for the backward pass what it needs; return the values."""
    ctx.save_for_backward(made.clipped)
    ctx.some, ctx.axis, ctx.contiguous = made.some, spec.axis, x.is_contiguous()
    if overwrite:
        ctx.mark_dirty(x)
    return made.values


class _Unclipped(torch.autograd.Function):
    """Straight-through estimator of values that the grid covers: none is clipped, so the gradient is 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec) -> Tensor:
        return kernels.values(x, Grid(scale, zero_point), spec, covered=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None, None, None


class _WithBias(torch.autograd.Function):
    """The same of a weight, per channel, and of a bias on its grid: both gradients are 1."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, scale: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
        return native.cover(weight, bias, scale, spec, Bounds(MIN_SCALE, BIAS_CODES, LARGEST_BIAS_CODE))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], grads[1], None, None


class _Learned(torch.autograd.Function):
    """The masked one, with gradients for scale and zero point."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, spec: QuantSpec, factor: float) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.spec, ctx.factor = spec, factor
        return kernels.values(x, Grid(scale, zero_point), spec)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, zero_point = ctx.saved_tensors
        grad = _laid_out_like(x, grads[0])
        to_x, to_scale, to_clipped = kernels.learned_gradient(x, grad, Grid(scale, zero_point), ctx.spec)
        to_zero = to_clipped * (-scale * ctx.factor) if ctx.needs_input_grad[2] else None
        return to_x, to_scale * ctx.factor, to_zero, None, None


def _laid_out_like(x: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient in the order of memory that x has, which kernels ask for."""
    return grad if x.is_contiguous() == grad.is_contiguous() else torch.empty_like(x, dtype=grad.dtype).copy_(grad)


# What made these tensors does not need them in its backward pass, so they can be written over.
_SPARE = frozenset(
    {
        "AddBackward0",
        "AddmmBackward0",
        "BmmBackward0",
        "CatBackward0",
        "ConvolutionBackward0",
        "CudnnBatchNormBackward0",
        "GeluBackward0",
        "HardswishBackward0",
        "MmBackward0",
        "MulBackward0",
        "NativeBatchNormBackward0",
        "NativeLayerNormBackward0",
        "SiluBackward0",
        "SubBackward0",
        "UnsafeViewBackward0",
    }
)


def fake_quantize(x: Tensor, grid: Grid, spec: QuantSpec, *, overwrite: bool = False) -> Tensor:
    """Return x on the grid, in x's dtype; the gradient passes where x was not clipped.

    `overwrite` says that nothing else reads x, so that the result may take its place where autograd allows it.
    """
    result: Tensor = _Masked.apply(x, *grid, spec, overwrite and _is_spare(x))
    return result


def fake_quantize_tracked(
    x: Tensor, averages: Tensor, how: Tracking, spec: QuantSpec, *, overwrite: bool = False
) -> Tensor:
    """Let averages of extremes follow x, which the native kernels take; return x on the grid that they then make."""
    result: Tensor = _Tracked.apply(x, averages, how, spec, overwrite and _is_spare(x))
    return result


def _is_spare(x: Tensor) -> bool:
    """Say whether nothing but its next reader needs x; a dispatch mode (selective checkpointing) may have kept it."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return False
    return x._base is None and type(x.grad_fn).__name__ in _SPARE


def fake_quantize_covered(x: Tensor, grid: Grid, spec: QuantSpec) -> Tensor:
    """Return x on a grid without zero point that covers all of it; the gradient passes everywhere."""
    result: Tensor = _Unclipped.apply(x, *grid, spec)
    return result


def fake_quantize_with_bias(weight: Tensor, bias: Tensor, scale: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Return a weight on the grid of its greatest magnitudes, and its bias as its codes read; the kernels take all."""
    result: tuple[Tensor, Tensor] = _WithBias.apply(weight, bias, scale, spec)
    return result


def fake_quantize_learned(x: Tensor, grid: Grid, spec: QuantSpec, gradient_scale: float = 1.0) -> Tensor:
    """Return x on the grid, in x's dtype; x gets its gradient where it was not clipped.

    Scale and zero point get theirs if they ask for one, times `gradient_scale`: with q = clip(round(x / s)) in steps
    from zero and k = 1 where x is not clipped, dy/ds = q - k x / s (LSQ, Esser et al., arXiv:1902.08153, equation 3)
    and dy/dz = -(1 - k) s (AIMET 2.42, affine backends; the plain form differentiated with round's gradient as 1).
    """
    result: Tensor = _Learned.apply(x, *grid, spec, gradient_scale)
    return result


class _StraightThrough(torch.autograd.Function):
    """`value` forward; the gradient goes to what it was computed from, as if nothing had been done to it."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


def straight_through(source: Tensor, value: Tensor) -> Tensor:
    """Return exactly `value`; its gradient goes to `source` (same shape)."""
    result: Tensor = _StraightThrough.apply(source, value)
    return result


class _StraightThroughAnd(torch.autograd.Function):
    """`value` forward; the gradient goes both to `source` and to what `value` was computed from."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], grads[0]


def straight_through_and(source: Tensor, value: Tensor) -> Tensor:
    """Return `value`, which does not depend on `source` by autograd; each gets the whole gradient."""
    result: Tensor = _StraightThroughAnd.apply(source, value)
    return result


def bias_codes(bias: Tensor, step: Tensor) -> Tensor:
    """Return the int32 codes of a bias, as float32."""
    return (bias.detach().float() / step.detach()).round_().clamp_(-LARGEST_BIAS_CODE, LARGEST_BIAS_CODE)


def snap(bias: Tensor, step: Tensor) -> Tensor:
    """Return the bias rounded to multiples of `step` (same shape, or 0-d): how its int32 codes read in float."""
    return straight_through(bias, bias_codes(bias, step).mul_(step.detach()).to(bias.dtype))
