"""Hand-written networks whose arguments, results or modules have an unusual structure."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.zoo_suites.classics_images import conv_bn_relu


class DictInOut(nn.Module):
    """A dict of tensors in, a dict with a list in it out."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.number = conv_bn_relu(3, 8, 2), nn.Linear(4, 8)
        self.head = nn.Linear(16, 10)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        maps = self.image(batch["image"])
        joined = torch.cat([maps.mean((2, 3)), F.relu(self.number(batch["numbers"]))], dim=1)
        return {"logits": self.head(joined), "features": [maps, joined]}


@dataclass
class Detections:
    """What DataclassOut gives."""

    boxes: Tensor
    scores: Tensor
    extra: Tensor | None = None


class DataclassOut(nn.Module):
    """A dataclass out, one of its fields left at None."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.box, self.score = conv_bn_relu(3, 8, 2), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Detections:
        x = self.stem(x)
        return Detections(boxes=self.box(x), scores=self.score(x).sigmoid())


class Pair(NamedTuple):
    """What NamedTupleInOut takes and gives."""

    left: Tensor
    right: Tensor


class NamedTupleInOut(nn.Module):
    """A named tuple in and another out, read by names."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, pair: Pair) -> Pair:
        left, right = F.relu(self.left(pair.left)), F.relu(self.right(pair.right))
        return Pair(left=left + right, right=right)


class NestedTuples(nn.Module):
    """Tuples in tuples and lists, in and out, passed on between submodules."""

    class Block(nn.Module):
        """Takes and gives (x, (y, [z]))."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, state: Any) -> Any:
            x, (y, [z]) = state
            return self.a(x), (y + x, [self.b(z).relu()])

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(self.Block(), self.Block())

    def forward(self, x: Tensor, others: tuple[Tensor, list[Tensor]]) -> Any:
        x, (y, zs) = self.blocks((x, others))
        return [x, (y, {"z": zs[0]})]


class ArgsKwargs(nn.Module):
    """*args and **kwargs, handed on to submodules; keyword-only and default arguments."""

    class Scaled(nn.Module):
        """A layer that takes a scale by keyword only."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x: Tensor, *rest: Tensor, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
            y: Tensor = self.conv(x + sum(rest)) * scale
            return y if bias is None else y + bias

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = self.Scaled(), nn.Conv2d(8, 4, 1)

    def forward(self, *images: Tensor, **options: Any) -> Any:
        return self.second(F.relu(self.first(*images, scale=0.5, **options)))


class Siamese(nn.Module):
    """One trunk for two inputs, whose results are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv_bn_relu(3, 8, 2), conv_bn_relu(8, 16, 2))
        self.embed, self.head = nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, left: Tensor, right: Tensor) -> Any:
        a, b = (self.embed(self.trunk(x).mean((2, 3))) for x in (left, right))
        return self.head(torch.abs(a - b)), F.cosine_similarity(a, b)


class ReusedConv(nn.Module):
    """One convolution with BatchNorm called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = conv_bn_relu(3, 8), conv_bn_relu(8, 8)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for _ in range(3):
            x = self.block(x) + x
        return x


class ReusedUnequally(nn.Module):
    """A module called twice in one branch and once in the other, and as a member of a list besides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.act = conv_bn_relu(3, 8), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.again = nn.ModuleList([self.shared, nn.Conv2d(8, 8, 1)])

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        deep = self.act(self.shared(self.act(self.shared(x))))
        flat = self.act(self.again[1](self.again[0](x)))
        return torch.cat([deep, flat], 1)


class EmptyModules(nn.Module):
    """An empty Sequential, an Identity, members that are None, and a ModuleList that is iterated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.nothing, self.same = conv_bn_relu(3, 8), nn.Sequential(), nn.Identity()
        self.downsample: nn.Module | None = None
        self.register_module("missing", None)
        self.layers = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1), nn.Identity(), nn.Conv2d(8, 8, 1)])
        self.none = nn.ModuleList()

    def forward(self, x: Tensor) -> Any:
        x = self.same(self.nothing(self.stem(x)))
        skip = x if self.downsample is None else self.downsample(x)
        for layer in self.layers:
            x = layer(x)
        for layer in self.none:
            x = layer(x)
        return F.relu(x + skip)


class Nesting(nn.Module):
    """A ModuleDict of Sequentials of ModuleLists, reached by keys, slices and attributes of several levels."""

    def __init__(self) -> None:
        super().__init__()
        branches = [nn.ModuleDict({"a": nn.Conv2d(8, 4, 1), "b": nn.Conv2d(4, 4, 1)}) for _ in range(2)]
        stem = nn.Sequential(conv_bn_relu(3, 8), nn.Sequential(conv_bn_relu(8, 8)))
        self.parts = nn.ModuleDict({"stem_conv": stem, "branches": nn.ModuleList(branches)})
        self.heads = nn.ModuleList(nn.Sequential(nn.Flatten(), nn.Linear(4 * 256, n)) for n in (2, 3))

    def forward(self, x: Tensor) -> Any:
        parts: Any = self.parts
        x = parts["stem_conv"][1:](parts["stem_conv"][0](x))
        found = [branch["b"](F.relu(branch["a"](x))) for branch in parts["branches"]]
        return {str(i): head(y) for i, (head, y) in enumerate(zip(self.heads, found, strict=True))}
