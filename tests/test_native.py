"""The kernels for a CPU give what PyTorch's operators give, bit for bit."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qatc import native
from qatc.grid import Grid, grid_from_range
from qatc.native.library import library
from qatc.quantizers import kernels
from qatc.quantizers.ranged import WeightTracked
from qatc.ranges.base import extremes
from qatc.ranges.extremes import MovingAverage
from qatc.spec import QuantSpec

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler")

SPECS = [
    QuantSpec(8),
    QuantSpec(8, axis=0, narrow=True),
    QuantSpec(4, axis=1),
    QuantSpec(4, signed=False),
    QuantSpec(8, symmetric=False),
    QuantSpec(8, signed=False, symmetric=False, upper=6.0),
    QuantSpec(3, signed=False, upper=6.0),
]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that calls another without the kernels."""

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(native, "takes", lambda *_: False)
            return function(*args, **kwargs)

    return call


def values(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Return values of which some lie on ties, some far outside, and some are not numbers."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    flat = x.view(-1)
    flat[::7] = (flat[::7] * 20).round() / 40
    flat[::31] *= 1000
    return x


def grid_of(x: Tensor, spec: QuantSpec) -> Grid:
    """Return a grid that clips a share of x on both sides."""
    low, high = extremes(x / 900, spec)
    return grid_from_range(low, high, spec) if spec.axis is not None else grid_from_range(low[0], high[0], spec)


# Around the vector width, the lanes and the piece that a thread takes.
SHAPES = [(3, 5), (2, 4, 1, 1), (7, 3, 3, 3), (2, 3, 17, 1), (2, 16, 64, 65), (1, 1, 181, 182)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_kernels_give_the_bits_of_the_operators(
    spec: QuantSpec, shape: tuple[int, ...], threads: int, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, grad = values(shape), values(shape, 1)
    grid = grid_of(x, spec)
    assert native.takes(x, spec.axis)
    found, expected = (call(kernels.quantize, x, grid, spec) for call in (_as_it_is, plain))
    assert torch.equal(found.values, expected.values)
    assert torch.equal(kernels.pass_unclipped(torch.ones_like(x), found.clipped, spec.axis) == 0, expected.clipped)
    assert found.some == bool(expected.clipped.any())
    for covered in (False, True):
        ours, theirs = (call(kernels.values, x, grid, spec) for call in (_as_it_is, plain))
        assert torch.equal(ours, theirs), covered
    with torch.no_grad():
        ours, theirs = (kernels.pass_unclipped(grad, made.clipped, spec.axis) for made in (found, expected))
        assert torch.equal(ours, theirs)
        for one, other in zip(
            *(call(kernels.learned_gradient, x, grad, grid, spec) for call in (_as_it_is, plain)), strict=True
        ):
            # Sums in another order: of terms up to 1000, n of them, at float32's resolution.
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * math.sqrt(x.numel()) * 1000)
    for one, other in zip(*(call(extremes, x, spec) for call in (_as_it_is, plain)), strict=True):
        assert torch.equal(one, other)


def _as_it_is(function: Any, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_treated_alike(bad: float, plain: Any) -> None:
    x = values((5, 40))
    x[2, 3] = bad
    for spec in SPECS[:5]:
        grid = grid_of(values((5, 40)), spec)
        found, expected = (call(kernels.quantize, x, grid, spec) for call in (_as_it_is, plain))
        assert torch.equal(found.values.nan_to_num(9e9), expected.values.nan_to_num(9e9))
        assert torch.equal(kernels.pass_unclipped(torch.ones_like(x), found.clipped, spec.axis) == 0, expected.clipped)
        for one, other in zip(*(call(extremes, x, spec) for call in (_as_it_is, plain)), strict=True):
            assert torch.equal(one.isfinite(), other.isfinite())
    estimator = MovingAverage(QuantSpec(8))
    estimator.collect(values((4, 4)))
    before = estimator.averages.clone()
    estimator.collect(x)
    assert torch.equal(estimator.averages, before), "a batch that is not finite moves nothing"


@given(
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.floats(0, 2.0**100, width=32),
    st.sampled_from(SPECS),
    st.none() | st.floats(2.0**-60, 2.0**30, width=32),
)
def test_a_grid_is_that_of_the_formula(low: float, width: float, spec: QuantSpec, floor: float | None) -> None:
    bottom, top = torch.tensor(low), torch.tensor(low + width)
    floors = None if floor is None else torch.tensor(floor)
    assert native.makes_grids(spec, bottom, top, floors)
    found = grid_from_range(bottom, top, spec, floors)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(native, "takes", lambda *_: False)
        expected = grid_from_range(bottom, top, spec, floors)
    assert torch.equal(found.scale, expected.scale)
    assert torch.equal(found.zero_point, expected.zero_point)


@pytest.mark.parametrize("spec", [s for s in SPECS if s.axis is None], ids=str)
def test_averages_follow_as_by_the_operators(spec: QuantSpec, plain: Any) -> None:
    ours, theirs = MovingAverage(spec), MovingAverage(spec)
    for seed in range(4):
        x = values((3, 50), seed)
        ours.collect(x)
        plain(theirs.collect, x)
    assert torch.equal(ours.averages, theirs.averages)


def test_what_has_no_one_piece_of_memory_is_left_to_the_operators() -> None:
    x = torch.randn(4, 6, 5, 5)
    assert native.takes(x.to(memory_format=torch.channels_last))
    assert native.takes(x.to(memory_format=torch.channels_last), 0)
    assert not native.takes(x.to(memory_format=torch.channels_last), 1)
    for other in (x.transpose(0, 1), x[:, ::2], x.double(), x.bfloat16(), x.to("meta"), x[:0]):
        assert not native.takes(other)


def test_without_a_compiler_there_are_no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("QATC_NATIVE", "0"), ("CC", "no-such-compiler"), ("CC", "false")):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            library.cache_clear()
            assert library() is None
            assert not native.takes(torch.ones(3))
    library.cache_clear()
    assert library() is not None


@pytest.mark.parametrize("shape", [(3, 5), (7, 3, 3, 3), (2, 40000)], ids=str)
def test_a_layer_deploys_as_by_the_operators(shape: tuple[int, ...], plain: Any) -> None:
    weight, bias = values(shape).requires_grad_(), values(shape[:1], 1)
    bias[0] = 1e9  # would not fit 32 bits on the weight's own grid
    bias.requires_grad_()
    quantizer = WeightTracked(QuantSpec(8, axis=0, narrow=True))
    scale = torch.tensor(0.013)
    assert quantizer.follows_channels
    found, expected = (call(quantizer.with_bias, weight, bias, scale, None) for call in (_as_it_is, plain))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    (found[0].sum() + 2 * found[1].sum()).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert torch.equal(bias.grad, torch.full_like(bias, 2.0))
