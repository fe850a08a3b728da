"""Writings of ops, each reading a convolution's result [4, 4, 8, 8]; tests run every one of them."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Forms = Mapping[str, Callable[[Tensor], Tensor]]


def _out(x: Tensor) -> Tensor:
    z = torch.zeros_like(x)
    torch.add(x, 1, out=z)
    return z + x


def _set_slice(x: Tensor) -> Tensor:
    y = x * 1.0
    y[:, 1:] = x[:, :-1]
    return y + x


def _set_mask(x: Tensor) -> Tensor:
    y = x.relu()
    y[x < 0.5] = 0.5
    return y


def _set_through_view(x: Tensor) -> Tensor:
    y = x * 1.0
    y[:, :2][:, :, 0] = 3.0
    return y


def _add_to_slice(x: Tensor) -> Tensor:
    y = x * 1.0
    part = y[:, :2]
    part += 1
    return y


def _add_to_whole(x: Tensor) -> Tensor:
    y = x * 1.0
    part, flat = y[:, 1], y.view(4, -1)
    y += 1
    return part.sum() + flat.mean() + y


def _add_to_transposed(x: Tensor) -> Tensor:
    y = x * 1.0
    y.transpose(1, 2).permute(3, 0, 1, 2)[0].mul_(2)
    return y


def _add_to_select(x: Tensor) -> Tensor:
    y = x * 1.0
    y.select(1, 2).add_(1)
    y.narrow(-1, 2, 3).clamp_(min=0)
    y.unsqueeze(0).squeeze(0).neg_()
    return y


def _copies(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    y.copy_(x)
    z = (x + 1).zero_()
    z.fill_(2.0)
    z[:, 0].copy_(x[:, 1])
    return y * z


def _masked_fill(x: Tensor) -> Tensor:
    y = x * 1.0
    y.masked_fill_(x < 0.25, 0.25)
    y.clamp_(max=1).sqrt_()
    return y


def _split_part_overwritten(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    a = a * 1
    a += b
    return a * b


def _unshape(x: Tensor) -> Tensor:
    y = x.mean((2, 3))
    y.unsqueeze_(1)
    return y


POSITIVE: Forms = {
    "sqrt": lambda x: (x.abs() + 1).sqrt(),
    "rsqrt": lambda x: torch.rsqrt(x.abs() + 1),
    "log": lambda x: torch.log(x.abs() + 1),
    "pow of a tensor": lambda x: torch.pow(x.abs() + 1, 0.5),
    "number ** x": lambda x: 2.0**x,
}

ARITHMETIC: Forms = {
    **POSITIVE,
    "add_ with alpha": lambda x: x.add_(x.sigmoid(), alpha=2),
    "rsub with alpha": lambda x: torch.rsub(x, x.sigmoid(), alpha=2),
    "neg": lambda x: torch.neg(x),
    "exp": lambda x: torch.exp(x),
    "abs": lambda x: abs(x),
    "square": lambda x: x.square(),
    "maximum": lambda x: torch.maximum(x, x.sigmoid()),
    "min of two": lambda x: torch.min(x, x.sigmoid()),
    "max over a dimension": lambda x: x.max(1)[0],
    "max of all": lambda x: torch.max(x),
    "amax": lambda x: x.amax((2, 3)),
    "amin": lambda x: torch.amin(x, 1, keepdim=True),
    "sum of two": lambda x: torch.sum(x, (2, 3), keepdim=True),
    "sum by numbers": lambda x: x.sum((-1, -2)),
    "std": lambda x: x.std(1),
    "var_mean": lambda x: torch.var_mean(x, 1)[0],
    "prod": lambda x: x.sigmoid().prod(1),
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "cumsum": lambda x: x.cumsum(1),
    "clamp_min": lambda x: x.clamp_min(-0.5),
    "clamp_max": lambda x: torch.clamp_max(x, 0.5),
    "clamp to a range": lambda x: x.clamp(-0.5, 0.5),
    "clamp from 0": lambda x: x.clamp(0, 3),
    "addcmul": lambda x: torch.addcmul(x, x, x.sigmoid(), value=0.5),
    "addcdiv": lambda x: torch.addcdiv(x, x, x.abs() + 1),
    "lerp": lambda x: torch.lerp(x, x.sigmoid(), 0.3),
    "mm": lambda x: torch.mm(x.flatten(1), x.flatten(1).t()),
    "baddbmm": lambda x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2], beta=0.5, alpha=2),
    "topk": lambda x: x.topk(2, 1)[0],
    "where a number": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "masked_fill": lambda x: x.masked_fill(x > 1, 1.0),
    "tril": lambda x: x.tril(),
}

ACTIVATIONS: Forms = {
    "celu": lambda x: F.celu(x, 0.5),
    "selu": lambda x: torch.selu(x),
    "glu": lambda x: F.glu(x, 1),
    "hardshrink": lambda x: F.hardshrink(x, 0.01),
    "softshrink": lambda x: F.softshrink(x, 0.2),
    "tanhshrink": lambda x: F.tanhshrink(x),
    "softplus": lambda x: F.softplus(x, beta=2),
    "softsign": lambda x: F.softsign(x),
    "mish": lambda x: F.mish(x, inplace=True),
    "prelu": lambda x: F.prelu(x, torch.full((4,), 0.1)),
    "rrelu": lambda x: F.rrelu(x, 0.1, 0.1, training=True),
    "threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "logsigmoid": lambda x: F.logsigmoid(x),
    "log_softmax": lambda x: F.log_softmax(x, dim=1),
    "softmin": lambda x: F.softmin(x, dim=1),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "softmax in float": lambda x: F.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype),
    "elu_": lambda x: F.elu_(x),
    "hardtanh_": lambda x: F.hardtanh_(x, -0.5, 0.5),
}

SHAPES: Forms = {
    "hstack": lambda x: torch.hstack([x, x]),
    "vstack": lambda x: torch.vstack((x, x)),
    "stack at the end": lambda x: torch.stack((x, x), dim=-1),
    "split by sizes": lambda x: x.split([1, 3], 1)[1],
    "split by size": lambda x: torch.split(x, split_size_or_sections=3, dim=1)[-1],
    "unbind": lambda x: x.unbind(1)[2],
    "tensor_split": lambda x: x.tensor_split((1, 2), 1)[1],
    "chunks of different sizes": lambda x: x.chunk(3, 2)[2],
    "a number": lambda x: x[:, 0],
    "None and ...": lambda x: x[:, None, ..., -1],
    "a slice to a size": lambda x: x[:, :, : x.size(2) // 2],
    "a list of positions": lambda x: x[:, [2, 0]],
    "narrow": lambda x: x.narrow(1, 1, 2),
    "select": lambda x: torch.select(x, -1, 3),
    "index_select": lambda x: x.index_select(1, torch.tensor([3, 1])),
    "gather": lambda x: x.gather(1, torch.zeros(4, 2, 8, 8, dtype=torch.int64)),
    "take_along_dim": lambda x: torch.take_along_dim(x, torch.zeros(4, 1, 8, 8, dtype=torch.int64), 1),
    "expand_as": lambda x: x.mean(1, keepdim=True).expand_as(x),
    "reshape_as": lambda x: x.flatten(1).reshape_as(x * 2) + x,
    "view_as": lambda x: x.relu().view_as(x.unflatten(1, (2, 2))),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "tile": lambda x: torch.tile(x, (2,)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=1),
    "repeat_interleave of torch": lambda x: torch.repeat_interleave(x, 3, -1),
    "roll": lambda x: torch.roll(x, shifts=(-1, 2), dims=(2, 3)),
    "flip": lambda x: x.flip(2, 3),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "movedim": lambda x: torch.movedim(x, 1, -1),
    "x.T": lambda x: x.flatten(1).T,
    "contiguous": lambda x: x.transpose(1, 2).contiguous().view(4, -1),
    "clone": lambda x: x.clone() + 1,
    "float": lambda x: x.float(),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel shuffle": lambda x: x.view(-1, 2, 2, 8, 8).transpose(1, 2).reshape(-1, 4, 8, 8),
    "unfold": lambda x: F.unfold(x, 3, padding=1),
    "fold": lambda x: F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2),
    "pad with a value": lambda x: F.pad(x, (1, 2, 0, 1), value=0.5),
    "pad by reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "einsum of a product": lambda x: torch.einsum("nchw,nchw->nc", x, x),
    "einsum with a free letter": lambda x: torch.einsum("bchw, bcij -> bhwij", x, x.sigmoid()),
    "einsum, result implied": lambda x: torch.einsum("ij,kj", x[0, 0], x[0, 1]),
    "einsum with a sum": lambda x: torch.einsum("nchw,nc->nh", x, x.mean((2, 3))),
    "einsum of one": lambda x: torch.einsum("nchw->nhwc", x),
    "einsum outer": lambda x: torch.einsum("nc,nd->ncd", x.mean((2, 3)), x.mean((2, 3))),
}

LAYERS: Forms = {
    "adaptive_max_pool2d to a size": lambda x: F.adaptive_max_pool2d(x, (2, 4)),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 4),
    "avg_pool1d": lambda x: F.avg_pool1d(x.flatten(2), 4),
    "avg_pool3d": lambda x: F.avg_pool3d(x, 2),
    "lp_pool2d": lambda x: F.lp_pool2d(x.abs() + 1, 2.0, 2),
    "layer_norm with weights": lambda x: F.layer_norm(x, (8,), torch.ones(8), bias=torch.zeros(8)),
    "group_norm": lambda x: F.group_norm(x, 2),
    "instance_norm": lambda x: F.instance_norm(x),
    "rms_norm": lambda x: F.rms_norm(x, (8,)),
    "local_response_norm": lambda x: F.local_response_norm(x, 2),
    "normalize": lambda x: F.normalize(x, dim=1),
    "dropout1d": lambda x: F.dropout1d(x.flatten(2), 0.0, training=True),
    "dropout3d": lambda x: F.dropout3d(x[:, None], 0.0),
    "feature_alpha_dropout": lambda x: F.feature_alpha_dropout(x, 0.0),
    "a table": lambda x: F.embedding((x > 0).long(), torch.arange(6.0).view(2, 3) / 100) + x[..., None],
    "one_hot": lambda x: F.one_hot((x > 0).long(), 2).float() * x[..., None],
}

OVERWRITING: Forms = {
    "out=": _out,
    "x[:, 1:] = y": _set_slice,
    "x[mask] = number": _set_mask,
    "a part of a part assigned": _set_through_view,
    "a slice added to": _add_to_slice,
    "the whole added to": _add_to_whole,
    "through transposes": _add_to_transposed,
    "through select and narrow": _add_to_select,
    "copy_, zero_, fill_": _copies,
    "masked_fill_": _masked_fill,
    "a part of a chunk": _split_part_overwritten,
    "unsqueeze_": _unshape,
}

ATTENTION: Forms = {
    "attention with a scale": lambda x: F.scaled_dot_product_attention(x, x, x.sigmoid(), scale=0.1),
    "causal attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "attention with a mask": lambda x: F.scaled_dot_product_attention(x, x, x, torch.ones(8, 8).tril().bool()),
    "attention with a float mask": lambda x: F.scaled_dot_product_attention(
        x, x, x, torch.zeros(8, 8).masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
    ),
    "attention of groups": lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, 2:], enable_gqa=True),
    "attention by hand": lambda x: torch.softmax((x @ x.mT) / 8**0.5 + torch.full((8, 8), -1e9).triu(1), -1) @ x,
}
