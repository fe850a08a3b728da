"""Python that a model's forward is written in: control flow on shapes, containers, signatures."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qatc.ir import notes
from qatc.trace import trace
from tests.models import conv, images
from tests.tracing.check_trace import BATCHES, check_outputs, check_trace


class Layer(nn.Module):
    """One convolution, and whatever a subclass does with it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)


class ShapeFlow(Layer):
    def forward(self, x: Tensor) -> Any:
        assert x.dim() == 4, "an image"
        assert x.dtype == torch.float32
        torch._assert(x.shape[1] == 3, "three channels")
        b, _, h, w = x.shape
        if h % 4 or w % 4:
            x = F.pad(x, (0, -w % 4, 0, -h % 4))
        y = self.conv(x)
        while y.shape[-1] > 4:
            y = F.max_pool2d(y, 2)
        return y.reshape(b, -1)


class Lengths(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        total = y.new_zeros(len(y), 1)
        for i in range(len(y[0])):
            total = total + y[:, i].mean((1, 2)).unsqueeze(1)
        return total / len(y.shape)


class Iteration(Layer):
    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        first, *rest = y.chunk(4, dim=1)
        for part in rest:
            first = first + part
        for i, row in enumerate(y.transpose(0, 1)):
            first = first + (i + 1) * row.unsqueeze(1)
        a, b = y.split((1, 3), 1)
        return first * a + torch.stack(list(b.unbind(1))).sum(0, keepdim=True).transpose(0, 1)


class Integers(Layer):
    def forward(self, x: Tensor) -> Any:
        size = int(x.shape[2] * 0.5), int(x.size(3) / 2)
        y = F.adaptive_avg_pool2d(self.conv(x), size)
        return y.flatten(1) * float(y.shape[1]) ** -0.5


@pytest.mark.parametrize("kind", [ShapeFlow, Lengths, Iteration, Integers])
def test_python_on_shapes_runs(kind: type[nn.Module]) -> None:
    check_trace(kind(), images(4, 3, 6, 6) if kind is ShapeFlow else images())


@dataclass
class Levels:
    fine: Tensor
    coarse: Tensor | None = None
    scale: float = 2.0

    def __post_init__(self) -> None:
        self.fine = self.fine * 1.0


class Point(NamedTuple):
    image: Tensor
    offset: Tensor


class DictInOut(Layer):
    def forward(self, batch: dict[str, Any]) -> Any:
        y = self.conv(batch["image"]) * batch["scales"][0]
        return {"maps": [y, (y + 1, {"deep": y * 2})], 3: y.mean(), "size": y.shape[0], "none": None}


class DataclassInOut(Layer):
    def forward(self, given: Levels) -> Any:
        assert given.coarse is None
        return Levels(self.conv(given.fine) * given.scale)


class NamedTupleInOut(Layer):
    def forward(self, point: Point) -> Any:
        y = self.conv(point.image) + point.offset
        return Point(offset=y.amax((2, 3)), image=y)


CONTAINERS = [
    (DictInOut, ({"image": images(), "scales": (images(4, 1, 1, 1),)},)),
    (DataclassInOut, (Levels(images()),)),
    (NamedTupleInOut, (Point(images(), images(4, 1, 1, 1)),)),
]


@pytest.mark.parametrize(("kind", "given"), CONTAINERS, ids=lambda value: getattr(value, "__name__", ""))
def test_containers_go_in_and_come_out_as_themselves(kind: type[nn.Module], given: Any) -> None:
    model = kind()
    gm = check_trace(model, given)
    expected, actual = model(*given), gm(*given)
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        assert (actual["size"], actual["none"]) == (4, None)


class Signature(Layer):
    def forward(self, x: Tensor, factor: float = 2.0, *, bias: Tensor | None = None, twice: bool = False) -> Any:
        y = self.conv(x) * factor
        y = y if bias is None else y + bias
        return self.conv(y[:, :3]) if twice else y


class Variadic(Layer):
    def forward(self, *images: Tensor, **extra: Tensor) -> Any:
        y = sum(self.conv(image) for image in images)
        return y + sum(extra.values())


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Signature, images()),
        (Signature, (images(), 3.0)),
        (Signature, {"x": images(), "bias": images(4, 4, 1, 1)}),
        (Signature, {"bias": images(4, 4, 1, 1), "twice": True, "x": images()}),
        (Variadic, (images(), images(seed=1))),
        (Variadic, {"a": images(4, 4, 8, 8)}),
    ],
)
def test_default_keyword_only_and_variadic_arguments(kind: type[nn.Module], given: Any) -> None:
    if kind is Variadic and isinstance(given, dict):
        given = {**given, "b": images(4, 4, 1, 1)}
    check_trace(kind(), given)


def test_an_argument_that_is_no_tensor_must_stay_what_it_was() -> None:
    model, x = Signature(), images()
    gm = trace(model, {"x": x, "twice": True, "bias": None})
    check_outputs(model, gm, {"x": x, "twice": True})
    with pytest.raises(AssertionError, match="the model was prepared for twice=True"):
        gm(x, twice=False)
    with pytest.raises(AssertionError, match="the model was prepared for bias=None"):
        gm(x, bias=x)


def test_an_argument_that_is_no_tensor_by_position() -> None:
    model, x = Signature(), images()
    gm = trace(model, (x, 3.0))
    check_outputs(model, gm, (x, 3.0))
    with pytest.raises(AssertionError, match=r"the model was prepared for factor=3\.0"):
        gm(x, 2.0)


def test_numbers_in_containers_are_noted() -> None:
    class Scaled(Layer):
        def forward(self, given: dict[str, Any]) -> Any:
            return self.conv(given["x"]) * given["factor"]

    gm = check_trace(Scaled(), ({"x": images(), "factor": 2.0},))
    assert notes(gm) == ("the graph is made for given.factor=2.0",)


def test_batches_cover_one_and_sizes_that_no_example_has() -> None:
    assert {1, 3, 5} <= set(BATCHES)
