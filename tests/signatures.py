"""Models whose inputs or outputs are no plain tensors: one form each, all of convolutions on [N, 3, 8, 8]."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.models import conv, images


class Frame(NamedTuple):
    image: Tensor
    depth: Tensor


@dataclass(frozen=True)
class Sample:
    image: Tensor
    depth: Tensor
    name: str = "sample"


@dataclass(frozen=True)
class Found:
    boxes: Tensor
    scores: Any
    note: Any = None


class TwoConvs(nn.Module):
    """Base of the models: one layer for images, one for depths."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(1, 4)


class DictInDictOut(TwoConvs):
    def forward(self, batch: Any) -> Any:
        image, depth = self.a(batch["image"]), self.b(batch["depth"])
        return {"sum": image + depth, "depth": depth}


class NestedTuple(TwoConvs):
    def forward(self, x: Any, others: Any) -> Any:
        return self.a(x) + self.b(others[1][0]), (self.b(others[0]),)


class NamedTuples(TwoConvs):
    def forward(self, frame: Any) -> Any:
        return Frame(self.a(frame.image), self.b(frame[1]))


class Dataclasses(TwoConvs):
    def forward(self, sample: Any) -> Any:
        return Found(self.a(sample.image), {"depth": self.b(sample.depth)})


class KeywordOnly(TwoConvs):
    def forward(self, x: Any, *, depth: Any) -> Any:
        return self.a(x) + self.b(depth)


class Defaults(TwoConvs):
    def forward(self, x: Any, scale: Any = 0.5, depth: Any = None) -> Any:
        return self.a(x) * scale + self.b(depth)


class Variadic(TwoConvs):
    def forward(self, *given: Any) -> Any:
        return self.a(given[0]) + self.b(given[1])


class IdsAndMask(nn.Module):
    """Token ids [N, 5] of int64 and a float mask [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.fc = nn.Embedding(11, 6), nn.Linear(6, 4)

    def forward(self, ids: Any, mask: Any) -> Any:
        return self.fc(self.embedding(ids) * mask.unsqueeze(-1))


class ListOfDicts(TwoConvs):
    def forward(self, x: Any, depth: Any) -> Any:
        return [{"features": self.a(x)}, {"features": self.b(depth), "none": None, "size": 3}]


class Unusual(TwoConvs):
    """Returns an input, a constant, a parameter and one tensor twice; an input is never read."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.arange(6.0))
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Any, unread: Any) -> Any:
        y = self.a(x)
        return {"x": x, "anchors": self.anchors, "scale": self.scale, "first": y, "again": y}


class Table(nn.Module):
    """Images [N, 3, 8, 8] and a table [4, 3] of weights for each of which there is no sample."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Any, table: Any) -> Any:
        return self.conv(x).mean((2, 3)) @ table


class WholeContainer(TwoConvs):
    """Hands a container on as it came."""

    def forward(self, x: Any, others: Any) -> Any:
        return self.a(x) + torch.stack(others).sum(0)


class Several(nn.Module):
    """Returns what one op gives in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Any) -> Any:
        return self.conv(x).chunk(2, 1)


def depths(seed: int = 0) -> Tensor:
    return images(4, 1, 8, 8, seed=seed)


def samples(seed: int) -> dict[type[nn.Module], Any]:
    """Return a batch of four for each of the models, in the form that the model takes."""
    x, d, e = images(seed=seed), depths(seed), depths(seed + 100)
    ids = torch.randint(0, 11, (4, 5), generator=torch.Generator().manual_seed(seed))
    return {
        DictInDictOut: {"image": x, "depth": d},
        NestedTuple: (x, (d, [e, None])),
        NamedTuples: (Frame(x, d),),
        Dataclasses: (Sample(x, d),),
        KeywordOnly: {"x": x, "depth": d},
        Defaults: {"x": x, "depth": d},
        Variadic: (x, d),
        IdsAndMask: {"ids": ids, "mask": (ids > 3).float()},
        ListOfDicts: (x, d),
        Unusual: (x, d),
        Table: (images(6, 3, 8, 8, seed=seed), images(4, 5, seed=7)),
        Several: x,
    }
