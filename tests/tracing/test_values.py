"""Python that decides on values is never answered by the example: an error in the root, a float leaf elsewhere."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

import qatc
from qatc import ir
from qatc.errors import QatcWarning, TraceError
from qatc.trace import trace
from tests.models import conv, images, randomise
from tests.tracing.check_trace import check_outputs, check_same, place, targets


class Mask(nn.Module):
    """Drops a mask that hides nothing, as transformers does (trap 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        hidden: Tensor | None = mask
        if mask.all():
            hidden = None
        y = self.fc(x)
        return y if hidden is None else y.masked_fill(~hidden[..., None], 0.0)


class InPart(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.first, self.part, self.last = nn.Linear(6, 6), part, nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        return self.last(self.part(self.first(x), mask))


ONES = (images(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))
PADDED = (images(2, 5, 6), torch.arange(5) < torch.tensor([[3], [4]]))


def test_a_mask_is_not_dropped_because_the_example_has_all_ones() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Mask(), ONES)
    assert caught.value.where == f"{place(Mask, 'if mask.all()')}: if mask.all():"


def test_in_a_submodule_the_same_decision_stays_one_float_call() -> None:
    model = randomise(InPart(Mask()))
    with pytest.warns(QatcWarning) as caught:
        gm = trace(model, ONES)
    (message,) = [str(w.message) for w in caught]
    assert message.startswith(f"part (Mask) cannot be traced at {place(Mask, 'if mask.all()')}: ")
    assert message.endswith("; it hides 24 weights")
    assert message in ir.notes(gm)
    (part,) = [n for n in gm.graph.nodes if n.target == "part"]
    assert ir.why_float(part).startswith("cannot be traced at test_values.py:")
    check_same(model, gm, ONES, PADDED)


def test_what_is_around_it_is_quantized_and_the_report_counts_what_it_hides() -> None:
    with pytest.warns(QatcWarning, match="it hides 24 weights"):
        gm = qatc.prepare(randomise(InPart(Mask())), ONES)
    rows = {row.name: row for row in gm.report.rows}
    assert rows["first"].weight
    assert rows["last"].weight
    assert not rows["part"].quantized
    assert "hides 24 weights" in str(gm.report)


def test_strict_refuses_it() -> None:
    with pytest.raises(TraceError, match=r"^strict: part \(Mask\) cannot be traced at .*; it hides 24 weights"):
        trace(InPart(Mask()), ONES, strict=True)


def test_the_innermost_module_that_can_be_a_call_is_the_float_one() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.mask = nn.Linear(6, 6), Mask()

        def forward(self, x: Tensor, mask: Tensor) -> Any:
            return self.mask(self.fc(x).relu(), mask)

    model = randomise(InPart(Around()))
    with pytest.warns(QatcWarning, match=r"^part\.mask \(Mask\)"):
        gm = trace(model, ONES)
    assert targets(gm, "call_module") == ["first", "part.fc", "part.mask", "last"]
    check_same(model, gm, ONES, PADDED)


def attempted(model: nn.Module) -> fx.GraphModule | TraceError:
    try:
        return trace(model, images())
    except TraceError as error:
        return error


class Reading(nn.Module):
    def __init__(self, read: Any) -> None:
        super().__init__()
        self.conv, self.read = conv(3, 4), read

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        return y * self.read(y)


READINGS = {
    "item": lambda y: 1.0 if y.max().item() > 0 else 2.0,
    "float": lambda y: 1.0 if float(y.max()) > 0 else 2.0,
    "int": lambda y: 1 + int(y.abs().max()) % 2,
    "tolist": lambda y: sum(y[0, 0, 0].tolist()),
    "numpy": lambda y: float(np.abs(y.detach().numpy()).max()),
    "array": lambda y: np.asarray(y.detach()).shape[0],
    "index": lambda y: [1.0, 2.0][(y.sum() > 0).long()],
    "while": lambda y: 1.0 if bool((y > 3).any()) else 2.0,
    "in": lambda y: 1.0 if 0.0 in y else 2.0,
    "equal": lambda y: 1.0 if torch.equal(y, y.abs()) else 2.0,
    "allclose": lambda y: 1.0 if torch.allclose(y, y.abs()) else 2.0,
    "nonzero": lambda y: len(y.nonzero()),
    "masked": lambda y: y[y > 0].shape[0] / 100,
    "max": lambda y: max(y[0, 0, 0, 0], y[0, 0, 0, 1]),
}


@pytest.mark.parametrize("read", READINGS.values(), ids=READINGS)
def test_no_way_of_reading_a_value_is_answered_silently(read: Any) -> None:
    """Either the graph computes the value, or it is an error with the line; never that of the example."""
    model = randomise(Reading(read))
    gm = attempted(model)
    if isinstance(gm, TraceError):
        assert gm.where.startswith("test_values.py:")
    else:
        check_outputs(model, gm, images(seed=1))
        check_outputs(model, gm, -2 * images(seed=2))


COMPUTED = {"nonzero", "masked"}  # sizes that depend on values are sizes in the graph


class Outer(nn.Module):
    def __init__(self, read: Any) -> None:
        super().__init__()
        self.stem, self.part = conv(3, 3), Reading(read)

    def forward(self, x: Tensor) -> Any:
        return self.stem(x) + self.part(x).mean()


@pytest.mark.parametrize("name", sorted(READINGS.keys() - COMPUTED))
def test_in_a_submodule_it_is_a_float_leaf(name: str) -> None:
    model = randomise(Outer(READINGS[name]))
    with pytest.warns(QatcWarning, match=r"^part \(Reading\) cannot be traced at test_values.py:\d+: .*hides 108 w"):
        gm = trace(model, images())
    check_same(model, gm, images(), images(seed=2))


@pytest.mark.parametrize("name", sorted(COMPUTED))
def test_a_number_of_elements_that_depends_on_values_is_computed(name: str) -> None:
    gm = qatc.prepare(randomise(Outer(READINGS[name])), images(), verify=True)
    assert gm.report.rows[1].weight


class Flag(nn.Module):
    """Decides on a buffer's value, as bookkeeping of initialised layers does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)
        self.register_buffer("ready", torch.tensor(True))

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x)
        if self.ready:
            y = y * 2
        return y


def test_a_decision_on_a_buffer_is_an_error() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Flag(), images())
    assert caught.value.where.startswith(place(Flag, "if self.ready"))


def test_a_value_of_a_constant_made_in_forward_may_be_read() -> None:
    class Made(Flag):
        def forward(self, x: Tensor) -> Any:
            factor = torch.tensor(3.0)
            return self.conv(x) * factor.item()

    gm = trace(randomise(Made()), images())
    assert any(place(Made, ".item()") in line for line in ir.notes(gm))
