"""Stochastic depth: whole branches left out at random while training."""

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Zero instead of x with probability `p` while training (Huang et al., arXiv:1603.09382); x itself in eval mode.

    Decided for each sample ("row") or for the whole batch ("batch"). What is kept is divided by 1 - p, unless `scale`
    is False.
    """

    def __init__(self, p: float, mode: str = "row", scale: bool = True) -> None:
        super().__init__()
        self.p, self.mode, self.scale = p, mode, scale

    def forward(self, x: Tensor) -> Tensor:
        """Return x, or what is kept of it, in its shape."""
        if not self.training or self.p == 0.0:
            return x
        rows = x.shape[0] if self.mode == "row" else 1
        kept = torch.empty((rows, *[1] * (x.dim() - 1)), dtype=x.dtype, device=x.device).bernoulli_(1.0 - self.p)
        if self.scale and self.p < 1.0:
            kept = kept / (1.0 - self.p)
        return x * kept
