"""How far a model's outputs are from those in float: as noise, as divergence of what is classified, or by a metric."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qatc.debugging.statistics import Sums

Metric = Callable[[nn.Module], float]


class Noise:
    """1 / SQNR of the outputs: the power of the error as a share of the signal's, the mean over all output tensors."""

    name = "noise of the outputs, as a share of their power"

    def __init__(self) -> None:
        self.sums: list[Sums] = []

    def add(self, wanted: list[Tensor], found: list[Tensor]) -> None:
        """Take in a batch of outputs: in float, and quantized."""
        self.sums = self.sums or [Sums() for _ in wanted]
        for sums, x, y in zip(self.sums, wanted, found, strict=True):
            sums.add(x, y)

    def result(self) -> float:
        """Return the mean over output tensors."""
        shares = [sums.result().noise for sums in self.sums]
        return sum(shares) / len(shares)


class Divergence:
    """The mean Kullback-Leibler divergence, in nats, of the classes' probabilities from those in float.

    The first output holds the logits, the classes in dimension 1; a further dimension is a further sample.
    """

    name = "Kullback-Leibler divergence of the outputs, in nats"

    def __init__(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0

    def add(self, wanted: list[Tensor], found: list[Tensor]) -> None:
        """Take in a batch of outputs: in float, and quantized."""
        p, q = (F.log_softmax(logits[0].double(), dim=1) for logits in (wanted, found))
        divergence = (p.exp() * (p - q)).sum(1)
        self.total = self.total + divergence.sum()
        self.count += divergence.numel()

    def result(self) -> float:
        """Return the mean over samples."""
        return float(torch.as_tensor(self.total)) / self.count


Damage = Noise | Divergence
DAMAGES: dict[str, type[Damage]] = {"sqnr": Noise, "kl": Divergence}
