"""How often each code of one weight goes back and forth, and which are held."""

import torch
from torch import Tensor, nn


class Tracker(nn.Module):
    """Oscillations of the codes of one tensor (Nagel et al., arXiv:2203.11086, algorithm 1).

    A code oscillates at a step where it changes, and in the direction opposite to that of its last change. All state
    is in buffers of the tensor's shape: its `code`, the `direction` of its last change (0 before any), the `frequency`
    of oscillations (a moving average), the `mean` of its codes (likewise), and whether it is `frozen`: then `mean` is
    the code that it is held at.
    """

    code: Tensor
    direction: Tensor
    frequency: Tensor
    mean: Tensor
    frozen: Tensor

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("code", codes.to(torch.int16))
        self.register_buffer("direction", torch.zeros_like(codes, dtype=torch.int8))
        self.register_buffer("frequency", torch.zeros_like(codes, dtype=torch.float32))
        self.register_buffer("mean", codes.float())
        self.register_buffer("frozen", torch.zeros_like(codes, dtype=torch.bool))

    def update(self, codes: Tensor, momentum: float, freeze_above: float | None) -> None:
        """Take in the codes of one step; freeze those that oscillate more often than `freeze_above`, if it is given.

        f <- m o + (1 - m) f, o being 1 for a code that oscillated. A frozen code is held at the rounded
        moving average of what it was before this step, its most frequent one.
        """
        codes = torch.where(self.frozen, self.mean, codes.float())
        change = torch.sign(codes - self.code).to(torch.int8)
        oscillated = change * self.direction == -1
        self.frequency.lerp_(oscillated.float(), momentum)
        self.direction.copy_(torch.where(change == 0, self.direction, change))
        self.code.copy_(codes)
        if freeze_above is not None:
            newly = (self.frequency > freeze_above) & ~self.frozen
            self.mean.copy_(torch.where(newly, self.mean.round(), self.mean))
            self.frozen |= newly
        self.mean.copy_(torch.where(self.frozen, self.mean, self.mean.lerp(codes, momentum)))
