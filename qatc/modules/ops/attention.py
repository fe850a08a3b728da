"""Softmax in the forms that attention takes."""

import math

import torch
from torch import Tensor, nn


class Softmax(nn.Module):
    """Softmax computed in another element type."""

    def __init__(self, dim: int | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dim, self.dtype = dim, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return probabilities along the dimension, in that type."""
        return nn.functional.softmax(x, self.dim, 0, self.dtype)


class LogSoftmax(nn.Module):
    """The logarithm of softmax, computed in another element type if one is given."""

    def __init__(self, dim: int | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.dim, self.dtype = dim, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities along the dimension."""
        return nn.functional.log_softmax(x, self.dim, 0, self.dtype)


class MaskedSoftmax(nn.Module):
    """Softmax of scores [..., L, S] over S, without the places that masks or causality block.

    In one module, so that no tensor of the graph holds the infinities of the blocked places. `causal` blocks the keys
    behind each query (counted from the first of both). A mask of bools names the places that are kept; a float one is
    added. A query that may see nothing gets zeros, as in `scaled_dot_product_attention`. `mask_blocks` takes masks as
    `nn.MultiheadAttention` does: bools name what is blocked, three dimensions are [N * heads, L, S].
    """

    def __init__(self, causal: bool = False, mask_blocks: bool = False) -> None:
        super().__init__()
        self.causal, self.mask_blocks = causal, mask_blocks

    def forward(self, scores: Tensor, *masks: Tensor) -> Tensor:
        """Return the weights, [..., L, S]; masks broadcast to that shape."""
        for given in masks:
            by_head = self.mask_blocks and given.dim() == 3 and scores.dim() == 4
            mask = given.unflatten(0, (-1, scores.shape[1])) if by_head else given
            if mask.dtype == torch.bool:
                scores = scores.masked_fill(mask if self.mask_blocks else ~mask, -math.inf)
            else:
                scores = scores + mask
        if self.causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        if not masks:  # causality alone leaves each query its first key
            return torch.softmax(scores, -1)
        blind = (scores == -math.inf).all(-1, keepdim=True)
        return torch.softmax(scores.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0)
