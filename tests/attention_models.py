"""Attention as models write it; all read [N, 6, 8] unless their docstring says otherwise."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def later(length: int = 6) -> Tensor:
    """Return the mask of bools that blocks the keys behind each query."""
    return torch.ones(length, length).triu(1).bool()


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` of one tensor, with a Linear in front and behind, and masks as the call's options."""

    def __init__(self, options: dict[str, Any] | None = None, **layer: Any) -> None:
        super().__init__()
        self.fc, self.options = nn.Linear(8, 8), options or {}
        self.attn = nn.MultiheadAttention(8, 2, **{"batch_first": True, **layer})

    def forward(self, x: Tensor) -> Any:
        y = self.fc(x)
        return self.attn(y, y, y, **self.options)[0] + y


class Weights(nn.Module):
    """The weights are read, and the call gives both results as they are."""

    def __init__(self, average: bool = True) -> None:
        super().__init__()
        self.attn, self.average = nn.MultiheadAttention(8, 2, batch_first=True), average

    def forward(self, x: Tensor) -> Any:
        y, weights = self.attn(x, x, x, average_attn_weights=self.average)
        return y.sum() + weights


class CrossAttention(nn.Module):
    """Queries of one tensor; keys and values of another, narrower or not; a sequence comes first."""

    def __init__(self, **layer: Any) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, layer.get("kdim", 8)), nn.Linear(8, layer.get("vdim", 8))
        self.attn = nn.MultiheadAttention(8, 4, **layer)

    def forward(self, x: Tensor) -> Any:
        return self.attn(self.q(x), self.k(x.flip(0)), self.v(x), need_weights=False)[0]


class Padded(nn.Module):
    """Attention whose padding mask is computed from the data: the last keys of half of the batch are blocked."""

    def __init__(self, **layer: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, **{"batch_first": True, **layer})

    def forward(self, x: Tensor) -> Any:
        long = x.sum((1, 2)) > 0
        padding = torch.stack([*[torch.zeros_like(long)] * 4, long, long], 1)
        return self.attn(x, x, x, key_padding_mask=padding, attn_mask=later())[0]


class Projected(nn.Module):
    """`scaled_dot_product_attention` between Linears, dropout as the mode says."""

    def __init__(self, p: float = 0.0, **options: Any) -> None:
        super().__init__()
        self.qkv, self.out, self.p, self.options = nn.Linear(8, 24), nn.Linear(8, 8), p, options

    def forward(self, x: Tensor) -> Any:
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p, **self.options)
        return self.out(y.transpose(1, 2).flatten(2))


class ByHand(nn.Module):
    """Attention written out, a learned bias and a mask of `value` added to the scores."""

    def __init__(self, value: float = -math.inf) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.table = nn.Parameter(torch.zeros(6, 6))
        self.register_buffer("mask", torch.zeros(6, 6).masked_fill(later(), value))
        self.mask: Tensor

    def forward(self, x: Tensor) -> Any:
        q, k, v = self.qkv(x).split(8, -1)
        scores = q @ k.transpose(-2, -1) / math.sqrt(8)
        scores = scores + self.table
        scores = scores + self.mask
        return self.out(torch.softmax(scores, -1) @ v)


class MaskAsInput(nn.Module):
    """A float mask that the caller passes: [N, 6], added to the scores with a huge factor, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        q, k, v = self.qkv(x).split(8, -1)
        blocked = (1.0 - mask[:, None, :]) * torch.finfo(torch.float32).min
        scores = torch.baddbmm(blocked, q, k.transpose(1, 2), alpha=8**-0.5)
        return self.out(F.softmax(scores, dim=-1, dtype=torch.float32).type_as(v) @ v)
