"""Files of a fixed batch, and files whose images have any size."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qatc
from qatc.errors import LoweringError, VerificationError
from qatc.lowering.lowered import Lowered, lowered_proto
from qatc.lowering.options import LoweringOptions
from qatc.lowering.verify import verify
from qatc.runtimes import RUNTIMES
from tests.lowering.networks import data, everything
from tests.lowering.test_wide_codes import Arranged
from tests.models import images, randomise
from tests.tracing.check_trace import place
from tests.tracing.test_sizes import Padded, UNet

IMAGES = LoweringOptions(dynamic={"x": (2, 3)})


class Tokens(nn.Module):
    """Positions as a sequence, and back as an image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        batch, channels, height, width = y.shape
        t = self.mix(torch.flatten(y, 2).transpose(1, 2))
        z: Tensor = self.head(F.relu(t).transpose(1, 2).reshape(batch, channels, height, width))
        return z


NETWORKS: dict[str, tuple[Any, Sequence[tuple[int, int]]]] = {
    "everything": (everything, [(16, 16), (24, 10), (8, 26)]),
    # Ratios other than powers of two are rounded one way by torch, another by ONNX Runtime, in files of one size too.
    "unet": (lambda: randomise(UNet()), [(16, 16), (24, 10), (10, 30)]),
    "transposed": (Arranged, [(16, 16), (9, 21)]),
    "tokens": (Tokens, [(16, 16), (24, 10)]),
}


@cache
def quantized(name: str, target: str) -> qatc.PreparedModel:
    """Return a calibrated model; shared between tests, so not to be changed."""
    torch.manual_seed(0)
    return prepared(NETWORKS[name][0](), data(), target)


def prepared(model: nn.Module, x: Tensor, target: str = "onnxruntime") -> qatc.PreparedModel:
    gm = qatc.prepare(model.eval(), x, target, "w8a8-pow2")
    qatc.calibrate(gm, [x], progress=False)
    return gm.eval()


def dims(proto: onnx.ModelProto) -> list[list[int | str]]:
    values = (*proto.graph.input, *proto.graph.output)
    return [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values]


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("name", NETWORKS)
def test_one_file_has_the_simulation_s_codes_at_several_sizes(name: str, target: str) -> None:
    gm = quantized(name, target)
    lowered = lowered_proto(gm, options=IMAGES)
    assert dims(lowered.proto)[0] == ["batch", 3, "x_2", "x_3"]
    codes = set()
    for height, width in NETWORKS[name][1]:
        check = verify(gm, lowered, {"x": images(3, 3, height, width).numpy()})
        assert check.differing_end_to_end == 0, f"{height}x{width}\n{check}"
        codes.add(check.codes)
    assert len(codes) == len(NETWORKS[name][1])


def test_the_batch_may_be_fixed_beside_open_sizes() -> None:
    gm = quantized("unet", "onnxruntime")
    lowered = lowered_proto(gm, options=LoweringOptions(batch=2, dynamic={"x": (3,)}))
    assert dims(lowered.proto)[0] == [2, 3, 16, "x_3"]
    check = verify(gm, lowered, {"x": images(4, 3, 16, 22).numpy()})
    assert check.differing_end_to_end == 0, str(check)


@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
def test_a_fixed_batch_leaves_no_size_open(target: str) -> None:
    gm = quantized("everything", target)
    lowered = lowered_proto(gm, options=LoweringOptions(batch=4))
    assert dims(lowered.proto) == [[4, 3, 16, 16], [4, 10]]
    sizes = [d for v in lowered.proto.graph.value_info for d in v.type.tensor_type.shape.dim]
    assert all(d.dim_value > 0 and not d.dim_param for d in sizes)
    check = verify(gm, lowered, {"x": data(8).numpy()})
    assert check.differing_end_to_end == 0, str(check)
    with pytest.raises(VerificationError, match="the data has 6 samples, the file's batch is 4"):
        verify(gm, lowered, {"x": data(6).numpy()})


def test_sizes_that_follow_a_fixed_batch_are_numbers() -> None:
    class Folds(nn.Module):
        """The batch in a shape, twice: `2 * batch`."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x.reshape(x.shape[0] * 2, 4)) + x.new_zeros(x.shape[0] * 2, 4)
            return y

    x = images(6, 8)
    gm = prepared(Folds(), x)
    open_, fixed = (lowered_proto(gm, options=LoweringOptions(batch=batch)).proto for batch in (None, 3))
    assert dims(open_)[1] == ["2*batch", 4]
    assert dims(fixed)[1] == [6, 4]
    assert {n.op_type for n in open_.graph.node} - {n.op_type for n in fixed.graph.node} >= {"Shape"}
    (y,) = RUNTIMES["onnxruntime"].session(fixed)({"x": x[:3].numpy()}).values()
    with torch.no_grad():
        assert np.array_equal(y, gm(x[:3]).numpy())


class Fixed(nn.Module):
    """A batch of 4 that the model writes down."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x).reshape(4, 2, 2)
        return y


def test_a_batch_that_the_model_fixed_is_no_other() -> None:
    with pytest.warns(qatc.QatcWarning, match="the batch is fixed"):
        gm = prepared(Fixed(), images(4, 8))
    assert dims(lowered_proto(gm, options=LoweringOptions(batch=4)).proto) == [[4, 8], [4, 2, 2]]
    with pytest.raises(LoweringError, match=r"the batch cannot be 8: the batch is fixed to that of the example inputs"):
        lowered_proto(gm, options=LoweringOptions(batch=8))


def refused(model: nn.Module, x: Tensor, options: LoweringOptions) -> str:
    with pytest.raises(LoweringError) as error:
        lowered_proto(prepared(model, x), options=options)
    return str(error.value)


def test_a_size_that_the_model_decided_on_is_refused_with_its_line() -> None:
    said = refused(Padded(), images(2, 3, 8, 8), IMAGES)
    assert said.startswith(
        f"x.shape[2] cannot stay open: specialised on x.shape[2] at {place(Padded, 'x.shape[2] % 2')}: "
    )


def test_the_other_size_of_such_a_model_may_stay_open() -> None:
    gm = prepared(Padded(), images(2, 3, 8, 8))
    lowered = lowered_proto(gm, options=LoweringOptions(dynamic={"x": (3,)}))
    assert verify(gm, lowered, {"x": images(2, 3, 8, 13).numpy()}).differing_end_to_end == 0


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(2 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(torch.flatten(self.conv(x), 1))
        return y


def test_a_layer_made_for_one_size_is_refused_with_its_place() -> None:
    said = refused(Flat(), images(2, 3, 8, 8), IMAGES)
    assert said.startswith("the model does not run with twice the size of x.shape[2], x.shape[3]: ")
    assert f"fc {place(Flat, 'self.fc(torch')}" in said


class Windows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 2, 3, padding=1), nn.AdaptiveAvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pool(self.conv(x))
        return y


def test_an_op_without_a_form_for_open_sizes_is_refused_with_its_place() -> None:
    said = refused(Windows(), images(2, 3, 8, 8), IMAGES)
    assert said.startswith("%pool has no form for sizes that are open\n  at: pool ")


@pytest.mark.parametrize(("dynamic", "said"), [
    ({"y": (2,)}, "no input is named 'y'\n  try: inputs: x"), ({"x": (4,)}, "x has 4 dimensions, no dimension 4"),
])  # fmt: skip
def test_what_is_no_dimension_of_an_input_is_refused(dynamic: dict[str, tuple[int, ...]], said: str) -> None:
    assert refused(Padded(), images(2, 3, 8, 8), LoweringOptions(dynamic=dynamic)).startswith(said)


class Two(nn.Module):
    """Inputs inside a dict, one of which follows the other's size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images: dict[str, Tensor]) -> Tensor:
        y: Tensor = self.conv(images["left"]) + images["right"]
        return y


def test_inputs_in_a_container_are_named_as_in_the_file() -> None:
    x = images(4, 3, 8, 8)
    gm = qatc.prepare(Two().eval(), ({"left": x, "right": x},), config="w8a8-pow2")
    qatc.calibrate(gm, [({"left": x, "right": x},)], progress=False)
    options = LoweringOptions(dynamic={"images_left": (2,), "images_right": (2,)})
    lowered: Lowered = lowered_proto(gm.eval(), options=options)
    arrays = {"images_left": images(2, 3, 11, 8).numpy(), "images_right": images(2, 3, 11, 8).numpy()}
    assert verify(gm, lowered, arrays).differing_end_to_end == 0
