from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from qatc.nested import Part, leaves, map_leaves, map_tensors, parts, tensors


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True)
class Frozen:
    image: Any
    count: int = 3


@dataclass(frozen=True, slots=True)
class Slotted:
    image: Any


@dataclass
class Derived:
    image: Any
    made: int = field(init=False)

    def __post_init__(self) -> None:
        self.made = 7


@dataclass
class Output(OrderedDict[str, Any]):
    """Like transformers' ModelOutput: a mapping of those of its fields that are not None."""

    logits: Any = None
    hidden: Any = None

    def __post_init__(self) -> None:
        for name in ("logits", "hidden"):
            if getattr(self, name) is not None:
                super().__setitem__(name, getattr(self, name))

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self) -> Any:
        return Output, (self.logits, self.hidden)


UNTYPED: Any = namedtuple("UNTYPED", "u v")
X, Y = torch.tensor([1.0]), torch.tensor([2.0])
STRUCTURES = [
    (X, {"": X}),
    ([X, 1, None], {"0": X}),
    ((X, [Y]), {"0": X, "1.0": Y}),
    ({"a": X, 3: {"b": Y}}, {"a": X, "3.b": Y}),
    (Pair(None, X), {"right": X}),
    (UNTYPED(X, Y), {"u": X, "v": Y}),
    (Frozen(X), {"image": X}),
    (Slotted([X, Y]), {"image.0": X, "image.1": Y}),
    (Derived({"deep": X}), {"image.deep": X}),
    (Output(hidden=(X, Y)), {"hidden.0": X, "hidden.1": Y}),
    (defaultdict(lambda: X, {"a": X}), {"a": X}),
    (UserDict({"a": X}), {"a": X}),
    (torch.max(torch.eye(2), dim=0), {}),
]


@pytest.mark.parametrize(("value", "expected"), STRUCTURES[:-1], ids=lambda v: type(v).__name__)
def test_tensors_are_found_by_their_paths(value: Any, expected: dict[str, Tensor]) -> None:
    found = tensors(value)
    assert [name for name, _ in found] == list(expected)
    assert all(tensor is expected[name] for name, tensor in found)


@pytest.mark.parametrize("value", [value for value, _ in STRUCTURES], ids=lambda v: type(v).__name__)
def test_a_mapped_structure_is_of_the_same_classes(value: Any) -> None:
    before = [tensor.clone() for _, tensor in tensors(value)]
    mapped = map_tensors(lambda t: t + 1, value)
    assert type(mapped) is type(value)
    assert [name for name, _ in tensors(mapped)] == [name for name, _ in tensors(value)]
    for old, (_, kept), (_, new) in zip(before, tensors(value), tensors(mapped), strict=True):
        assert torch.equal(kept, old), "the structure given was changed"
        assert torch.equal(new, old + 1)
    others = [[leaf.value for leaf in leaves(v) if not isinstance(leaf.value, Tensor)] for v in (mapped, value)]
    assert others[0] == others[1]


def test_a_mapped_output_of_transformers_has_its_attributes_too() -> None:
    mapped = map_tensors(lambda t: t + 1, Output(logits=X))
    assert mapped.logits is mapped["logits"]
    assert mapped.hidden is None


def test_what_holds_no_tensor_stays_the_same_object() -> None:
    plain = {"sizes": torch.Size([2, 3]), "names": ["a"], "none": None}
    mapped = map_tensors(lambda t: t + 1, [plain, X])
    assert mapped[0] is plain


def test_other_objects_are_leaves() -> None:
    for value in (nn.ReLU(), SimpleNamespace(x=X), Frozen, "text", {X}, None):
        assert [leaf.value for leaf in leaves(value)] == [value]
        assert map_leaves(lambda leaf: leaf, value) is value


def test_parts_say_how_code_gets_at_them() -> None:
    assert parts(Pair(X, Y)) == [(Part("left", 0), X), (Part("right", 1), Y)]
    assert parts(Slotted(X)) == [(Part("image", "image", attribute=True), X)]
    assert parts({4: X}) == [(Part("4", 4), X)]
    assert parts(X) is None
