"""Models exported to .pt2 files, for the tests."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models import images, randomise
from tests.torchvision_networks import network
from tools.models import torchvision_models

DYNAMIC = torch.export.Dim.DYNAMIC


class Two(nn.Module):
    """Two inputs, a dict of results, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 16), nn.Linear(4, 16)
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(16, 3)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        """Return the sum of both, and what a head makes of it."""
        y = torch.relu(self.left(left)) + torch.relu(self.right(right))
        return {"logits": self.out(self.drop(y)), "more": [y]}


class Odd(nn.Module):
    """Weights by other names, shared, read in two ways or twice; norms and ops whose ATen form has other arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(4, 3, 3, 3))
        self.tied, self.twice = nn.Linear(4, 4), nn.Conv2d(4, 4, 1)
        self.free = nn.BatchNorm2d(4, affine=False)
        self.batch = nn.BatchNorm2d(4, track_running_stats=False)
        self.norm, self.instance, self.group = nn.LayerNorm(4), nn.InstanceNorm2d(4), nn.GroupNorm(2, 4)
        self.words = nn.Embedding(5, 4, padding_idx=0)
        self.up, self.back = nn.Upsample(scale_factor=2, mode="bilinear"), nn.ConvTranspose2d(4, 4, 2, 2, groups=2)
        self.register_buffer("offset", torch.ones(4, 1, 1), persistent=False)

    def forward(self, x: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and vectors."""
        y = F.relu(F.conv2d(x, self.kernel, padding="same"))
        y = self.batch(self.free(self.twice(self.twice(y)))) + self.offset
        y = F.leaky_relu_(self.back(self.group(self.instance(self.up(y)))), 0.2)
        with torch.no_grad():
            largest = y.amax((2, 3), keepdim=True)
        left, right = (y * largest).chunk(2, 1)
        y = torch.cat([right, 1 - left], 1)[:, :, 1:, ::2].clamp(0, 6)
        z = self.norm(self.words(words)).mean(1)
        z = F.linear(self.tied(z), self.tied.weight.t())
        positions = torch.arange(y.shape[2], device=x.device)[:, None].to(torch.float32)
        return y + positions, z.softmax(-1)[:, [0, 2]]


def vit() -> nn.Module:
    """Return a small vision transformer of torchvision's."""
    model: nn.Module = randomise(torchvision_models().VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=10))
    return model


def odd() -> nn.Module:
    """Return `Odd` with seeded values."""
    return randomise(Odd())


def two() -> nn.Module:
    """Return `Two` with seeded values."""
    return randomise(Two())


MODELS: dict[str, tuple[Any, tuple[Tensor, ...]]] = {
    "mobilenet_v3_small": (lambda: network("mobilenet_v3_small"), (images(2, 3, 32, 32),)),
    "vit": (vit, (images(2, 3, 32, 32),)),
    "two": (two, (images(4, 8), images(4, 4))),
    "odd": (odd, (images(2, 3, 6, 6), torch.tensor([[1, 2, 0], [3, 4, 1]]))),
}


def exported(
    path: Path, model: nn.Module, inputs: tuple[Tensor, ...], *, fixed: bool = False, core: bool = False
) -> Path:
    """Write the model as a .pt2 file: of a fixed batch, or of core ATen ops."""
    open_ = None if fixed else tuple({0: DYNAMIC} for _ in inputs)
    program = torch.export.export(model, inputs, dynamic_shapes=open_)
    torch.export.save(program.run_decompositions() if core else program, path)
    return path
