from collections.abc import Callable
from typing import Any

import pytest
import torch
from inline_snapshot import snapshot

from qatc.arguments import Arguments, arguments_of, batch_size, grown
from qatc.errors import ConfigError
from tests.signatures import Frame, Sample

X, Y, Z = (torch.full((2, 1), float(i)) for i in range(3))


def one(x: Any) -> Any: ...
def two(x: Any, y: Any) -> Any: ...
def optional(x: Any = None, y: Any = None) -> Any: ...
def keyword(x: Any, *, y: Any, scale: float = 1.0) -> Any: ...
def variadic(x: Any, *rest: Any, y: Any = None) -> Any: ...
def anything(x: Any, **rest: Any) -> Any: ...


@pytest.mark.parametrize(
    ("given", "forward", "expected"),
    [
        (X, one, Arguments((X,))),
        ((X, Y), one, Arguments((X,))),
        ([X, Y, Z], two, Arguments((X, Y))),
        ((X, Y, Z), variadic, Arguments((X, Y, Z))),
        ((X,), optional, Arguments((X,))),
        (Frame(X, Y), two, Arguments((X, Y))),
        ((Frame(X, Y),), one, Arguments((Frame(X, Y),))),
        (Sample(X, Y), one, Arguments((Sample(X, Y),))),
        ({"x": X}, one, Arguments((), {"x": X})),
        ({"x": X, "labels": Y}, one, Arguments((), {"x": X})),
        ({"image": X, "mask": Y}, one, Arguments(({"image": X, "mask": Y},))),
        (({"x": X},), one, Arguments(({"x": X},))),
        ({"y": Y}, optional, Arguments((), {"y": Y})),
        ({"image": X}, optional, Arguments(({"image": X},))),
        ({"x": X, "y": Y, "labels": Z}, keyword, Arguments((), {"x": X, "y": Y})),
        ({"x": X, "labels": Z}, anything, Arguments((), {"x": X, "labels": Z})),
    ],
)
def test_what_a_batch_is_follows_from_its_form_and_the_signature(
    given: Any, forward: Callable[..., Any], expected: Arguments
) -> None:
    assert arguments_of(given, forward) == expected


def test_a_dict_that_lacks_arguments_is_an_error_that_names_them() -> None:
    with pytest.raises(ConfigError) as caught:
        arguments_of({"x": X, "mask": Y}, two)
    assert str(caught.value) == snapshot("""\
the dict has keys ['mask', 'x'], the model needs ['x', 'y']: y missing
  try: name its keys as the arguments of forward, or give a tuple in their order\
""")
    with pytest.raises(ConfigError) as caught:
        arguments_of((X,), keyword).bound(keyword)
    assert str(caught.value) == snapshot("""\
the inputs do not fit the model: missing a required argument: 'y'
  try: its arguments are (x: Any, *, y: Any, scale: float = 1.0) -> Any\
""")


def test_the_batch_is_the_first_tensors_and_grows_in_all_that_have_it() -> None:
    given = {"scalar": torch.tensor(1.0), "image": X, "nested": [Y, torch.zeros(3, 2)]}
    assert batch_size(given) == 2
    assert batch_size({"scalar": torch.tensor(1.0)}) is None
    more = grown(given)
    assert [tuple(t.shape) for t in (more["scalar"], more["image"], *more["nested"])] == [(), (3, 1), (3, 1), (3, 2)]
    assert torch.equal(more["image"][2], X[0])
