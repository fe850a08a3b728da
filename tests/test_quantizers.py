"""Every quantizer of the tables: its codes, its gradients, and when it moves."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import qatc
from qatc.grid import Grid, finish_scale, power_of_two
from qatc.quantizers import (
    WEIGHT_QUANTIZERS,
    Quantizer,
    WeightTracked,
    weight_quantizer,
)
from qatc.spec import QuantSpec
from tests.models import images
from tests.quantizer_cases import (
    PLAIN_CASES,
    broadcast,
    calibrated,
    every_case,
    every_plain_case,
    for_width,
)


@every_case
def test_codes_are_whole_and_within_the_width(quantizer: Quantizer, x: Tensor) -> None:
    codes = quantizer.codes(4 * x)
    assert torch.equal(codes, codes.round())
    assert quantizer.spec.qmin <= int(codes.min())
    assert int(codes.max()) <= quantizer.spec.qmax
    assert len(codes.unique()) > 1


@every_case
def test_the_output_is_that_of_its_codes(quantizer: Quantizer, x: Tensor) -> None:
    scale, zero_point = (broadcast(v, x, quantizer.spec.axis) for v in quantizer.checked_grid(x))
    assert torch.equal(quantizer(x), (quantizer.codes(x) - zero_point) * scale)


@every_plain_case
def test_quantizing_twice_is_quantizing_once(quantizer: Quantizer, x: Tensor) -> None:
    once = quantizer(x)
    assert torch.equal(quantizer.codes(once), quantizer.codes(x))
    # A weight's range is found again from the result, one float32 rounding later.
    torch.testing.assert_close(quantizer(once), once, rtol=2**-22, atol=0)


@every_plain_case
def test_nothing_is_off_by_more_than_half_a_step_where_it_is_not_clipped(quantizer: Quantizer, x: Tensor) -> None:
    codes, scale = quantizer.codes(x), broadcast(quantizer.checked_grid(x).scale, x, quantizer.spec.axis)
    inside = (codes > quantizer.spec.qmin) & (codes < quantizer.spec.qmax)
    # The quotient is rounded to float32, and so is the product: by a 2^-24th of it each.
    half = 0.50001 + 2**-23 * (quantizer.spec.qmax - quantizer.spec.qmin)
    assert bool(((quantizer(x) - x).abs()[inside] <= (half * scale).expand_as(x)[inside]).all())


@every_plain_case
def test_zero_is_a_code(quantizer: Quantizer, x: Tensor) -> None:
    grid = quantizer.checked_grid(x)
    assert torch.equal(grid.zero_point, grid.zero_point.round())
    assert bool((quantizer.spec.qmin <= grid.zero_point).all())
    assert bool((grid.zero_point <= quantizer.spec.qmax).all())
    holed = x * (torch.arange(x.numel()).view_as(x) % 3 > 0)
    assert torch.equal(quantizer(holed)[holed == 0], torch.zeros(int((holed == 0).sum())))


@every_case
def test_symmetric_grids_have_no_zero_point_and_pow2_grids_an_even_one(quantizer: Quantizer, x: Tensor) -> None:
    scale, zero_point = quantizer.checked_grid(x)
    assert not quantizer.spec.symmetric or not zero_point.any()
    if quantizer.spec.pow2:
        assert torch.equal(torch.frexp(scale).mantissa, torch.full_like(scale, 0.5))
        assert not (zero_point % 2).any()


@every_case
def test_a_grid_ends_below_its_upper_bound(quantizer: Quantizer, x: Tensor) -> None:
    if quantizer.spec.upper is not None:
        scale, zero_point = quantizer.checked_grid(x)
        highest = (quantizer.spec.qmax - zero_point) * scale
        reach = 2 if quantizer.spec.pow2 and quantizer.spec.symmetric else 1  # the power of two that reaches there
        assert float(highest) <= reach * quantizer.spec.upper * (1 + 2**-23)  # upper / qmax * qmax rounds twice
        assert float(highest) >= quantizer.spec.upper / 2 - 2 * float(scale)  # a power of two may be half


@every_plain_case
def test_the_gradient_passes_where_nothing_is_clipped(quantizer: Quantizer, x: Tensor) -> None:
    x = (4 * x).requires_grad_()
    factor = images(*x.shape, seed=9)
    (quantizer(x) * factor).sum().backward()
    scale, zero_point = (broadcast(v, x, quantizer.spec.axis) for v in quantizer.checked_grid(x))
    ratio, spec = x.detach() / scale, quantizer.spec
    above = ratio > 0 if spec.symmetric and not spec.signed else ratio >= spec.qmin - zero_point
    inside = above & (ratio <= spec.qmax - zero_point)
    if isinstance(quantizer, WeightTracked) and spec.pow2 != "round":  # it covers all, whatever its division rounds to
        inside = torch.ones_like(inside)
    torch.testing.assert_close(x.grad, factor * inside, rtol=0, atol=0)
    quantizer.zero_grad()


@every_case
def test_evaluation_changes_no_state(quantizer: Quantizer, x: Tensor) -> None:
    before = copy.deepcopy(quantizer.state_dict())
    first = quantizer(x)
    quantizer(100 * x)
    assert all(torch.equal(v, before[k]) for k, v in quantizer.state_dict().items())
    assert torch.equal(quantizer(x), first)


def onnx_codes(x: Tensor, grid: Grid, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Return the codes and values that onnxruntime's QuantizeLinear and DequantizeLinear give."""
    kind = TensorProto.INT8 if spec.signed else TensorProto.UINT8
    size = [] if spec.axis is None else [len(grid.scale)]
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=spec.axis or 0),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=spec.axis or 0),
        ],
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("q", kind, None), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            helper.make_tensor("scale", TensorProto.FLOAT, size, grid.scale.reshape(-1).tolist()),
            helper.make_tensor("zero", kind, size, grid.zero_point.int().reshape(-1).tolist()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    codes, values = session.run(None, {"x": x.detach().numpy()})
    return torch.from_numpy(codes.astype(np.float32)), torch.from_numpy(values)


@pytest.mark.parametrize(("quantizer", "x"), [case for case in PLAIN_CASES if "8 bits" in str(case.id)])
def test_codes_and_values_are_those_of_onnxruntime(quantizer: Quantizer, x: Tensor) -> None:
    grid, spec = quantizer.checked_grid(x), quantizer.spec
    half_steps = torch.arange(x.numel()).view_as(x) % 600 - 300
    for values in (x, 4 * x, half_steps * 0.5 * broadcast(grid.scale, x, spec.axis)):
        if isinstance(quantizer, WeightTracked):  # its range follows the values
            grid = quantizer.checked_grid(values)
        codes, real = onnx_codes(values, grid, spec)
        assert torch.equal(quantizer.codes(values), codes.clamp(spec.qmin, spec.qmax))
        assert torch.equal(quantizer(values), real) or spec.narrow


def test_torch_fake_quantize_is_no_reference_on_half_steps() -> None:
    """It multiplies by 1 / scale: if this ever passes, the two tests above prove less than they say."""
    differing = 0
    for amplitude in torch.linspace(1, 2, 9):
        quantizer = calibrated("fixed", QuantSpec(), amplitude)
        scale = quantizer.checked_grid(amplitude).scale
        x = torch.arange(-250, 250) * 0.5 * scale
        theirs = torch.fake_quantize_per_tensor_affine(x, float(scale), 0, -128, 127)
        differing += int((quantizer(x) - theirs).abs().gt(0.5 * scale).sum())
    assert differing > 100


def test_pow2_up_covers_and_down_stays_inside() -> None:
    x = images(64).abs()
    free = calibrated("fixed", QuantSpec(), x).checked_grid(x).scale
    up = calibrated("fixed", QuantSpec(pow2="up"), x).checked_grid(x).scale
    down = calibrated("fixed", QuantSpec(pow2="down"), x).checked_grid(x).scale
    assert float(down) <= float(free) <= float(up) == 2 * float(down)
    exact = calibrated("fixed", QuantSpec(pow2="up"), torch.tensor([127 / 64])).checked_grid(x).scale
    assert float(exact) == 1 / 64


def test_pow2_rounds_the_exponent_to_the_nearest() -> None:
    values = torch.exp2(torch.linspace(-30, 30, 4001, dtype=torch.float64)).float()
    # The two float32 around the square root of two, the tie between 1 and 2.
    values = torch.cat([values, torch.tensor([1.41421354, 1.41421366])])
    assert torch.equal(power_of_two(values, "round").double(), torch.exp2(torch.log2(values.double()).round()))


def test_a_least_scale_holds_however_powers_of_two_are_rounded() -> None:
    for rounding in ("up", "down", "round"):
        floor = torch.tensor([1.2, 1.0])
        found = finish_scale(torch.tensor([1.1, 0.1]), QuantSpec(pow2=rounding), floor)
        assert found.tolist() == [2.0, 1.0]


def test_each_channel_has_a_scale_of_its_own() -> None:
    w = images(5, 4, 3) * torch.tensor([1e-3, 1.0, 10.0, 0.1, 100.0]).view(5, 1, 1)
    for name in for_width(WEIGHT_QUANTIZERS, 8):
        if WEIGHT_QUANTIZERS[name].transforms:
            continue
        together = weight_quantizer(name, QuantSpec(axis=0, narrow=True), w).eval()(w)
        for i, channel in enumerate(w):
            alone = weight_quantizer(name, QuantSpec(narrow=True), channel).eval()(channel)
            torch.testing.assert_close(together[i], alone)


def test_a_bias_of_zeros_leaves_scales_of_powers_of_two_as_they_are() -> None:
    """What a bias asks of its weight's scale is nothing then; zero has no power of two next to it."""
    layer = nn.Linear(64, 8)
    nn.init.zeros_(layer.bias)
    x = images(16, 64)
    gm = qatc.prepare(layer, x, config="w8a8-pow2")
    qatc.calibrate(gm, [x], progress=False)
    with torch.no_grad():
        expected = layer(x)
        assert float((gm.eval()(x) - expected).abs().max()) < 0.05 * float(expected.abs().max())
