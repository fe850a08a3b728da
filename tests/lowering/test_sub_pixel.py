"""Transposed convolutions as convolutions: the same integers, and integer kernels in ONNX Runtime."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qatc
from qatc.config import config_of
from qatc.errors import LoweringError
from qatc.lowering import lowered_proto, verify
from qatc.lowering.sub_pixel import SubPixel, axis_of, sub_pixel
from qatc.modules.fused_forms import fused_form
from qatc.modules.transposed import FusedConvTranspose
from qatc.passes import InsertQuantizers, qat_pipeline
from qatc.pipeline import Pipeline
from qatc.prepared import PreparedFor, remember
from qatc.targets import target_of
from qatc.trace import trace
from tests.lowering.networks import optimized_ops
from tests.models import conv, images, randomise
from tests.prepared import prepared


def integers(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(-9, 10, shape, generator=generator).double()


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
def test_sums_are_the_same_in_every_geometry(kernel: int, stride: int) -> None:
    """Over integers, so that no order of summation hides a difference."""
    seen = 0
    for padding, dilation, output_padding, groups in product(range(4), (1, 2, 3), range(3), (1, 2, 4)):
        size = 2 * stride - 2 * padding + (kernel - 1) * dilation + output_padding + 1
        if size < 1 or output_padding >= max(stride, dilation):
            continue
        axis = axis_of(kernel, stride, padding, dilation, output_padding)
        form, x, weight = SubPixel((axis,), groups), integers(2, 4, 3), integers(4, 3, kernel)
        phases = F.conv1d(
            F.pad(x, axis.padding), form.kernel(weight), None, dilation=axis.dilation, groups=form.groups
        )  # fmt: skip
        expected = F.conv_transpose1d(x, weight, None, stride, padding, output_padding, groups, dilation)
        apart = phases.unflatten(1, (-1, stride)).transpose(2, 3).flatten(2)
        joined = apart[..., axis.crop[0] : apart.shape[-1] - axis.crop[1]]
        assert torch.equal(joined, expected), (padding, dilation, output_padding, groups)
        seen += 1
    assert seen > 5


def test_the_usual_layers_need_no_more_places_and_no_crop() -> None:
    doubling = axis_of(kernel=2, stride=2, padding=0, dilation=1, output_padding=0)
    assert (doubling.taps, doubling.padding, doubling.crop) == (((0,), (1,)), (0, 0), (0, 0))
    odd = axis_of(kernel=3, stride=2, padding=1, dilation=1, output_padding=1)
    assert (odd.taps, odd.padding, odd.crop) == (((1, None), (2, 0)), (0, 1), (0, 0))
    even = axis_of(kernel=4, stride=2, padding=1, dilation=1, output_padding=0)  # three places would need no crop
    assert (even.taps, even.padding, even.crop) == (((2, 0), (3, 1)), (1, 1), (1, 1))
    dilated = axis_of(kernel=3, stride=1, padding=2, dilation=2, output_padding=0)
    assert (dilated.taps, dilated.dilation, dilated.crop) == (((2, 1, 0),), 2, (0, 0))


# Transposed layers behind one another, and the shape of an image that a convolution of 8 channels reads before them.
IMAGES: tuple[Any, ...] = (
    nn.ConvTranspose2d(8, 6, 2, 2),
    nn.ConvTranspose2d(6, 8, 4, 2, 1, bias=False),
    nn.ConvTranspose2d(8, 8, 3, 2, 1, groups=8),
    nn.ConvTranspose2d(8, 8, 3, (1, 2), 1, output_padding=(0, 1), groups=2, dilation=(2, 1)),
    nn.ConvTranspose2d(8, 6, 3, 1, 1),
)
LINES = (nn.ConvTranspose1d(8, 6, 4, 2, 1),)
VOLUMES = (nn.ConvTranspose3d(8, 6, 2, 2),)
CASES = [
    pytest.param(IMAGES, (3, 4, 4), "w8a8", id="images"),
    pytest.param(IMAGES, (3, 4, 4), "w4a4-pow2", id="images in 4 bits"),
    pytest.param(LINES, (3, 9), "w8a8-pow2", id="lines"),
    pytest.param(VOLUMES, (3, 5, 5, 5), "w8a8-pow2", id="volumes"),
]


@pytest.mark.parametrize(("layers", "shape", "config"), CASES)
def test_it_is_integer_and_agrees_optimized_and_not(
    layers: tuple[Any, ...], shape: tuple[int, ...], config: str, tmp_path: Path
) -> None:
    rank = len(shape) - 1
    plain = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[rank]
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[rank](6)
    model = nn.Sequential(plain(3, 8, 3), nn.ReLU(), *layers, norm, nn.ReLU6(), plain(6, 4, 1))
    gm = qatc.prepare(randomise(model), images(4, *shape), config=config)
    qatc.calibrate(gm, [images(4, *shape, seed=1)], progress=False)
    lowered = lowered_proto(gm)
    for runtime in ("onnxruntime", "onnxruntime-unoptimized"):
        check = verify(gm, lowered, {"input": images(4, *shape, seed=2).numpy()}, runtime=runtime)
        assert check.passed, str(check)  # with power-of-two scales no code differs
    ops = optimized_ops(lowered.proto, tmp_path)
    assert ops["QLinearConv"] == 2 + len(layers)
    assert not {"Conv", "FusedConv", "ConvTranspose", "Pad"} & set(ops)
    assert (ops["QuantizeLinear"], ops["DequantizeLinear"]) == (1, 1)


def test_names_of_the_file_are_those_of_the_users_layer() -> None:
    proto = lowered_proto(prepared(nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 4, 4, 2, 1)))).proto
    behind = [node.name for node in proto.graph.node if node.name.startswith("1")]
    assert behind == [
        "1/DequantizeLinear", "1/DequantizeLinear_1", "1/Conv", "1_q/QuantizeLinear", "1_q/DepthToSpace", "1_q/Slice",
        "1_q/DequantizeLinear",
    ]  # fmt: skip


def test_an_activation_that_is_not_fused_keeps_the_transposed_form() -> None:
    """Phases can only be put together where quantizers read them."""
    target, config = target_of("onnxruntime"), config_of("w8a8")
    gm = trace(randomise(nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 4, 2, 2), nn.ReLU(), conv(4, 4))), [images()])
    wanted = [p for p in qat_pipeline(target, config) if p.name != "fuse-conv-bn-act"]
    assert any(isinstance(p, InsertQuantizers) for p in wanted)
    Pipeline(tuple(wanted)).run(gm)
    remember(gm, PreparedFor(target, config))
    qatc.calibrate(gm, [images()], progress=False)
    lowered = lowered_proto(gm)
    assert "ConvTranspose" in {node.op_type for node in lowered.proto.graph.node}
    assert verify(gm, lowered, {"input": images(8, 3, 8, 8).numpy()}, runtime="onnxruntime-unoptimized").passed


def test_a_size_that_follows_the_batch_is_refused() -> None:
    layer = fused_form(nn.ConvTranspose2d(8, 4, 2, 2))
    assert isinstance(layer, FusedConvTranspose)
    square = qatc.ir.TensorType(torch.float32, (None, 8, 4, 4))
    with pytest.raises(LoweringError, match="is unknown, or follows the batch"):
        sub_pixel(layer, square, qatc.ir.TensorType(torch.float32, (None, 4, None, 8)), sizes_given=True)
