"""Every kind of module that has a form in the file, with inputs; dimension 0 of what is not a weight is the batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qatc.lowering.lowered_modules import GlobalAveragePool, SumPool
from qatc.modules import ops
from tests.models import images

Make = Callable[[int], Sequence[Any]]


def one(*shape: int) -> Make:
    """Give one tensor [batch, *shape]."""
    return lambda batch: (images(batch, *shape),)


def two(first: tuple[int, ...], second: tuple[int, ...] = ()) -> Make:
    """Give two tensors, both with the batch in front."""
    return lambda batch: (images(batch, *first), images(batch, *(second or first), seed=1))


def positive(batch: int) -> Sequence[Any]:
    """Give one tensor of values from 0.5 on."""
    return (images(batch, 4, 6, 6).abs() + 0.5,)


def number(value: float, first: bool = False) -> Make:
    """Give a tensor of values from 0.5 on and a number, in either order."""
    return lambda batch: (value, *positive(batch)) if first else (*positive(batch), value)


def rows(batch: int) -> Tensor:
    """Give numbers of rows, [batch, 5]."""
    return torch.arange(5 * batch).view(batch, 5) % 3


SEQUENCE, IMAGE, VOLUME = one(4, 9), one(4, 6, 6), one(2, 4, 5, 6)
BY_RANK = {1: SEQUENCE, 2: IMAGE, 3: VOLUME}
Case = tuple[nn.Module, Make]


def _values() -> dict[str, Case]:
    plain = (
        nn.ReLU(), nn.ReLU6(), nn.Sigmoid(), nn.Tanh(), nn.SiLU(), nn.Mish(), nn.Hardswish(), nn.Hardsigmoid(),
        nn.LeakyReLU(0.2), nn.ELU(0.7), nn.CELU(0.7), nn.SELU(), nn.Softsign(), nn.LogSigmoid(), nn.Tanhshrink(),
        nn.Hardshrink(0.3), nn.Softshrink(0.3), nn.Softplus(), nn.GELU(), nn.PReLU(),
    )  # fmt: skip
    found: dict[str, Case] = {type(m).__name__: (m, IMAGE) for m in plain}
    found |= {
        "GELU tanh": (nn.GELU("tanh"), IMAGE),
        "Softplus beta": (nn.Softplus(2.0, 10.0), IMAGE),
        "Hardtanh": (nn.Hardtanh(-0.5, 0.75), IMAGE),
        "Hardtanh above": (nn.Hardtanh(0.25, float("inf")), IMAGE),
        "Hardtanh below": (nn.Hardtanh(-float("inf"), 0.25), IMAGE),
        "Threshold": (nn.Threshold(0.1, 0.0), IMAGE),
        "Threshold to another": (nn.Threshold(0.1, -2.0), IMAGE),
        "GLU": (nn.GLU(1), IMAGE),
        "PReLU per channel": (nn.PReLU(4), IMAGE),
        "ops.PReLU": (ops.PReLU(), lambda batch: (images(batch, 4, 6), images(4))),
        "ops.PReLU of one": (ops.PReLU(), lambda batch: (images(batch, 4, 6), images(1))),
    }
    of_two: tuple[nn.Module, ...] = (ops.Add(), ops.Sub(), ops.Mul(), ops.Maximum(), ops.Minimum())
    of_numbers: tuple[nn.Module, ...] = (ops.Add(), ops.Sub(), ops.Mul(), ops.Div(), ops.Pow())
    found |= {type(m).__name__: (m, two((4, 6, 6), (4, 1, 6))) for m in of_two}
    found |= {f"{type(m).__name__} of a number": (m, number(1.5)) for m in of_numbers}
    found |= {f"a number {type(m).__name__}": (m, number(2, first=True)) for m in of_numbers}
    found["Div"] = (ops.Div(), lambda batch: (*positive(batch), *positive(batch)))
    found["MatMul"] = (ops.MatMul(), two((3, 4, 5), (3, 5, 2)))
    found |= {f"Unary {name}": (ops.Unary(name), positive) for name in ops.arithmetic.UNARY}
    return found


def _shapes() -> dict[str, Case]:
    return {
        "Concat": (ops.Concat(-1), lambda batch: (list(two((4, 6), (4, 3))(batch)),)),
        "Reshape": (ops.Reshape((-1, 2, 2, 36)), IMAGE),
        "Reshape to one": (ops.Reshape(-1), IMAGE),
        "Flatten": (nn.Flatten(), IMAGE),
        "Flatten of images": (nn.Flatten(2, 3), IMAGE),
        "Unflatten": (nn.Unflatten(1, (2, -1)), IMAGE),
        "Permute": (ops.Permute((0, 2, -1, 1)), IMAGE),
        "Transpose": (ops.Transpose(-1, 1), IMAGE),
        "Movedim": (ops.Movedim(1, -1), IMAGE),
        "Movedim of two": (ops.Movedim((1, 2), (-1, 1)), IMAGE),
        "Squeeze": (ops.Squeeze(), one(1, 6, 1)),
        "Squeeze of one": (ops.Squeeze(-1), one(4, 6, 1)),
        "Squeeze of two": (ops.Squeeze((1, -1)), one(1, 6, 1)),
        "Squeeze of none": (ops.Squeeze(1), IMAGE),
        "Unsqueeze": (ops.Unsqueeze(-2), IMAGE),
        "Expand": (ops.Expand((-1, 4, 6, 5)), one(1, 6, 1)),
        "Expand in front": (ops.Expand((2, -1, 4, 6)), one(4, 1)),
        "Expand to another": (ops.Expand(), two((4, 1, 6), (4, 5, 6))),
        "Tile": (ops.Tile((1, 2, 1, 3)), IMAGE),
        "Tile in front": (ops.Tile((2, 1, 1, 1, 1)), IMAGE),
        "RepeatInterleave": (ops.RepeatInterleave(3, 1), IMAGE),
        "RepeatInterleave of the batch": (ops.RepeatInterleave(2, 0), IMAGE),
        "Cast": (ops.Cast(torch.float32), lambda batch: (rows(batch),)),
        "Slice": (ops.Slice((slice(None), slice(1, -1), slice(None, None, 2))), IMAGE),
        "Slice of one": (ops.Slice((slice(None), 1)), IMAGE),
        "Slice from behind": (ops.Slice((..., slice(-3, None))), IMAGE),
        "Slice with a new dimension": (ops.Slice((slice(None), None, -1, slice(0, 2), None)), IMAGE),
        "Slice of rows": (ops.Slice(slice(1, None)), IMAGE),
        "Slice of nothing": (ops.Slice((slice(None), slice(0, 4))), IMAGE),
        "Narrow": (ops.Narrow(-2, 1, 3), IMAGE),
        "Select": (ops.Select(1, 2), IMAGE),
        "Select from behind": (ops.Select(-1, -2), IMAGE),
        "Split": (ops.Split(3, 1, 1), IMAGE),
        "Split of sizes": (ops.Split((1, 2, 1), 1, 1), IMAGE),
        "Chunk": (ops.Chunk(3, -1, 2), IMAGE),
        "Flip": (ops.Flip((1, -1)), IMAGE),
        "Roll": (ops.Roll((1, -2), (2, 3)), IMAGE),
        "Roll of all": (ops.Roll(3), lambda batch: (images(3, 4),)),
        "IndexSelect": (ops.IndexSelect(1), lambda batch: (images(batch, 4, 6), torch.tensor([2, 0, 2]))),
        "TakeAlong": (ops.TakeAlong(1), lambda batch: (images(batch, 4), rows(batch))),
        "Embedding": (ops.Embedding(), lambda batch: (rows(batch), images(3, 8))),
        "nn.Embedding": (nn.Embedding(3, 8), lambda batch: (rows(batch),)),
        "Unfold": (nn.Unfold((2, 3), 2, (1, 0), (2, 1)), IMAGE),
        "Fold": (nn.Fold((6, 7), (2, 3), 1, 1, 2), one(12, 16)),
        "Dropout": (nn.Dropout(), IMAGE),
        "PixelShuffle": (nn.PixelShuffle(2), IMAGE),
        "PixelUnshuffle": (nn.PixelUnshuffle(2), IMAGE),
        "ChannelShuffle": (nn.ChannelShuffle(2), IMAGE),
        "Assign a number": (ops.Assign((slice(None), slice(1, 3))), lambda batch: (images(batch, 4, 6), 0.5)),
        "Assign": (
            ops.Assign((slice(None), slice(1, None))),
            lambda batch: (images(batch, 4, 6), images(batch, 3, 6, seed=1)),
        ),
        "Assign one": (ops.Assign((slice(None), 2)), two((4, 6), (6,))),
    }


def _reductions() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for kind in (ops.Mean, ops.Sum, ops.Amax, ops.Amin):
        name = kind.__name__
        found |= {
            name: (kind((2, 3)), IMAGE),
            f"{name} kept": (kind(-1, keepdim=True), IMAGE),
            f"{name} of all": (kind(), IMAGE),
        }
    found |= {
        "Softmax": (nn.Softmax(-1), IMAGE),
        "Softmax of channels": (nn.Softmax(1), IMAGE),
        "Softmin": (nn.Softmin(-1), IMAGE),
        "LogSoftmax": (nn.LogSoftmax(1), IMAGE),
        "Softmax2d": (nn.Softmax2d(), IMAGE),
        "ops.Softmax": (ops.Softmax(-1, torch.float32), IMAGE),
        "ops.LogSoftmax": (ops.LogSoftmax(-1), IMAGE),
        "MaskedSoftmax": (ops.MaskedSoftmax(), lambda batch: (*IMAGE(batch), images(6, 6, seed=1) > 0)),
        "MaskedSoftmax, blind": (ops.MaskedSoftmax(), lambda batch: (*IMAGE(batch), torch.ones(6, 6).triu(1) > 0)),
        "MaskedSoftmax, causal": (ops.MaskedSoftmax(causal=True), IMAGE),
        "MaskedSoftmax of floats": (
            ops.MaskedSoftmax(), lambda batch: (*IMAGE(batch), images(batch, 1, 6, 6, seed=1), images(6, 6) > 0)
        ),
        "MaskedSoftmax that blocks": (
            ops.MaskedSoftmax(mask_blocks=True), lambda batch: (*IMAGE(batch), images(4 * batch, 6, 6, seed=1) > 0)
        ),
        "GlobalAveragePool": (GlobalAveragePool(keepdim=True), IMAGE),
        "GlobalAveragePool, flat": (GlobalAveragePool(keepdim=False), IMAGE),
    }  # fmt: skip
    return found


_NORM = torch.Generator().manual_seed(0)


def _moved(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for tensor in (*module.parameters(), *(b for b in module.buffers() if b.is_floating_point())):
            tensor.copy_(torch.rand(tensor.shape, generator=_NORM) + 0.5)
    return module.eval()


def _norms() -> dict[str, Case]:
    def weights(batch: int) -> Sequence[Any]:
        return images(batch, 4, 6), images(6), images(6, seed=1)

    return {
        "LayerNorm": (_moved(nn.LayerNorm((6, 6))), IMAGE),
        "LayerNorm, plain": (nn.LayerNorm(6, elementwise_affine=False), IMAGE),
        "LayerNorm without a bias": (_moved(nn.LayerNorm(6, bias=False)), IMAGE),
        "ops.LayerNorm": (ops.LayerNorm((6,)), weights),
        "RMSNorm": (_moved(nn.RMSNorm(6)), IMAGE),
        "RMSNorm, plain": (nn.RMSNorm((6, 6), elementwise_affine=False, eps=1e-3), IMAGE),
        "ops.RMSNorm": (ops.RMSNorm((6,), 1e-6), lambda batch: weights(batch)[:2]),
        "GroupNorm": (_moved(nn.GroupNorm(2, 4)), IMAGE),
        "GroupNorm, plain": (nn.GroupNorm(2, 4, affine=False), SEQUENCE),
        "ops.GroupNorm": (ops.GroupNorm(2), lambda batch: (*IMAGE(batch), images(4), images(4, seed=1))),
        "InstanceNorm1d": (nn.InstanceNorm1d(4), SEQUENCE),
        "InstanceNorm2d": (_moved(nn.InstanceNorm2d(4, affine=True)), IMAGE),
        "InstanceNorm3d": (nn.InstanceNorm3d(2), VOLUME),
        "InstanceNorm2d that tracks": (_moved(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)), IMAGE),
        "ops.InstanceNorm": (ops.InstanceNorm(), lambda batch: (*IMAGE(batch), images(4), images(4, seed=1))),
        "LocalResponseNorm": (nn.LocalResponseNorm(3, 0.1, 0.7, 2.0), IMAGE),
        "Normalize": (ops.Normalize(), IMAGE),
        "Normalize by 1": (ops.Normalize(1.0, -1), IMAGE),
        "BatchNorm1d": (_moved(nn.BatchNorm1d(4)), SEQUENCE),
        "BatchNorm2d": (_moved(nn.BatchNorm2d(4)), IMAGE),
        "BatchNorm3d": (_moved(nn.BatchNorm3d(2)), VOLUME),
    }


def _pools() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for rank, inputs in BY_RANK.items():
        kind = {name: getattr(nn, f"{name}{rank}d") for name in ("MaxPool", "AvgPool", "LPPool", "AdaptiveAvgPool",
                                                                  "AdaptiveMaxPool")}  # fmt: skip
        found |= {
            f"MaxPool{rank}d": (kind["MaxPool"](3, 2, 1, ceil_mode=True), inputs),
            f"MaxPool{rank}d, dilated": (kind["MaxPool"](2, 1, 0, 2), inputs),
            f"AvgPool{rank}d": (kind["AvgPool"](3, 2, 1), inputs),
            f"AvgPool{rank}d of what is there": (kind["AvgPool"](3, 2, 1, count_include_pad=False), inputs),
            f"AvgPool{rank}d, rounded up": (kind["AvgPool"](3, 2, ceil_mode=True), inputs),
            f"LPPool{rank}d": (kind["LPPool"](2.0, 2), inputs),
            f"AdaptiveAvgPool{rank}d to one": (kind["AdaptiveAvgPool"](1), inputs),
            f"AdaptiveMaxPool{rank}d to one": (kind["AdaptiveMaxPool"](1), inputs),
        }
    return found | {
        "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d((3, 2)), IMAGE),
        "AdaptiveAvgPool2d of columns": (nn.AdaptiveAvgPool2d((None, 1)), IMAGE),
        "AdaptiveMaxPool2d": (nn.AdaptiveMaxPool2d((3, 2)), IMAGE),
        "SumPool": (SumPool(nn.AvgPool2d(2, divisor_override=3)), IMAGE),
        "MaxPool2d of an image": (nn.MaxPool2d(2), lambda batch: (images(3, 6, 6),)),
    }


_BORDERS: Mapping[str, tuple[float, ...]] = {
    "Zero": (), "Constant": (0.5,), "Reflection": (), "Replication": (), "Circular": ()
}  # fmt: skip


def _resizes() -> dict[str, Case]:
    return {
        "Interpolate": (ops.Interpolate(scale_factor=2.0), IMAGE),
        "Interpolate to a size": (ops.Interpolate(size=(9, 5)), IMAGE),
        "Interpolate by a fraction": (ops.Interpolate(scale_factor=(1.5, 0.7)), IMAGE),
        "Interpolate exactly": (ops.Interpolate(size=(9, 5), mode="nearest-exact"), IMAGE),
        "Interpolate linear": (ops.Interpolate(scale_factor=2.0, mode="linear"), SEQUENCE),
        "Interpolate bilinear": (ops.Interpolate(size=(9, 5), mode="bilinear"), IMAGE),
        "Interpolate corners": (ops.Interpolate(scale_factor=2.0, mode="bilinear", align_corners=True), IMAGE),
        "Interpolate bicubic": (ops.Interpolate(size=(9, 5), mode="bicubic"), IMAGE),
        "Interpolate bicubic corners": (ops.Interpolate(size=9, mode="bicubic", align_corners=True), IMAGE),
        "Interpolate smoothly": (ops.Interpolate(size=(4, 3), mode="bilinear", antialias=True), IMAGE),
        "Interpolate trilinear": (ops.Interpolate(scale_factor=2.0, mode="trilinear"), VOLUME),
        "Interpolate by area": (ops.Interpolate(size=(3, 2), mode="area"), IMAGE),
        "Upsample": (nn.Upsample(scale_factor=2.0), IMAGE),
        "Upsample bilinear": (nn.Upsample((9, 5), mode="bilinear"), IMAGE),
        "UpsamplingBilinear2d": (nn.UpsamplingBilinear2d(scale_factor=2), IMAGE),
        "Pad": (ops.Pad((1, 2, 0, 1)), IMAGE),
        "Pad with a value": (ops.Pad((1, 2), value=0.5), IMAGE),
        "Pad by reflection": (ops.Pad((1, 2, 2, 1), "reflect"), IMAGE),
        "Pad by repetition": (ops.Pad((1, 2, 0, 1), "replicate"), IMAGE),
        "Pad around": (ops.Pad((1, 2, 0, 1), "circular"), IMAGE),
        "Pad that cuts": (ops.Pad((-1, -2, 1, 0)), IMAGE),
        "UpsamplingNearest2d": (nn.UpsamplingNearest2d(scale_factor=3), IMAGE),
        **{
            f"{name}Pad{rank}d": (getattr(nn, f"{name}Pad{rank}d")((1, 2, 0, 1, 1, 0)[: 2 * rank], *value), inputs)
            for rank, inputs in BY_RANK.items()
            for name, value in {
                "Zero": (),
                "Constant": (0.5,),
                "Reflection": (),
                "Replication": (),
                "Circular": (),
            }.items()
        },
    }


def _layers() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for rank, inputs in BY_RANK.items():
        conv, up = getattr(nn, f"Conv{rank}d"), getattr(nn, f"ConvTranspose{rank}d")
        width = 2 if rank == 3 else 4
        found |= {
            f"Conv{rank}d": (conv(width, 6, 3, 2, 1), inputs),
            f"Conv{rank}d of groups": (conv(width, 6, 2, dilation=2, groups=2, bias=False), inputs),
            f"Conv{rank}d, same": (conv(width, 6, 5, padding="same"), inputs),
            f"Conv{rank}d, valid": (conv(width, 6, 3, padding="valid"), inputs),
            f"Conv{rank}d around": (conv(width, 6, 3, padding=1, padding_mode="circular"), inputs),
            f"ConvTranspose{rank}d": (up(width, 6, 3, 2, 1, 1), inputs),
            f"ConvTranspose{rank}d of groups": (up(width, 6, 2, groups=2, bias=False, dilation=2), inputs),
        }
    return found | {
        "Linear": (nn.Linear(6, 3), one(6)),
        "Linear without a bias": (nn.Linear(6, 3, bias=False), one(6)),
        "Linear over the last": (nn.Linear(6, 3), IMAGE),
        "Linear over the last, no bias": (nn.Linear(6, 3, bias=False), IMAGE),
    }


CASES: Mapping[str, Case] = {
    **_values(), **_shapes(), **_reductions(), **_norms(), **_pools(), **_resizes(), **_layers(),
}  # fmt: skip
