"""Sizes stay symbols; what the model's code decides on is said, with the line."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qatc
from qatc.ir import notes
from tests.check_pass import TOLERANCE, close, evaluated
from tests.models import conv, images, randomise
from tests.tracing.check_trace import check_trace, place, targets


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.up = conv(3, 4), conv(4, 8), conv(12, 4)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Any:
        skip = F.relu(self.down1(x))
        y = F.relu(self.norm(self.down2(F.max_pool2d(skip, 2))))
        y = F.interpolate(y, size=skip.shape[2:], mode="bilinear", align_corners=False)
        return self.up(torch.cat([y, skip], 1))


def test_a_unet_is_right_at_another_size_and_another_batch() -> None:
    gm = check_trace(UNet(), images(2, 3, 32, 32), images(3, 3, 48, 40), images(1, 3, 30, 34))
    assert notes(gm) == ()


def test_a_unet_prepared_at_one_size_is_right_at_another() -> None:
    model, x = randomise(UNet()), images(3, 3, 48, 40)
    gm = qatc.prepare(model, images(2, 3, 32, 32))
    with qatc.float_mode(gm):
        close(evaluated(gm, [x]), evaluated(model, [x]), "output", TOLERANCE)


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Any:
        if x.shape[2] % 2 == 0:
            x = F.pad(x, (0, 0, 0, 1))
        return self.conv(x)


def test_a_forced_decision_is_recorded_with_its_line() -> None:
    gm = check_trace(Padded(), images(2, 3, 8, 8), images(2, 3, 6, 10))
    (line,) = notes(gm)
    assert line.startswith(f"specialised on x.shape[2] at {place(Padded, 'x.shape[2] % 2')}: ")
    assert "x.shape[2] % 2" in line or "Mod(x.shape[2], 2)" in line
    assert line.endswith("is yes")


def test_a_size_made_a_number_is_recorded() -> None:
    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.Linear(6, 6)

        def forward(self, sequence: Tensor) -> Any:
            state = torch.zeros_like(sequence[:, 0])
            for step in range(sequence.shape[1]):
                state = self.cell(sequence[:, step] + state)
            return state

    gm = check_trace(Steps(), images(2, 5, 6))
    (line,) = notes(gm)
    assert line.startswith(f"specialised on sequence.shape[1] at {place(Steps, 'in range')}: ")


def test_the_larger_of_two_inputs_is_recorded_for_both() -> None:
    class Crop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, a: Tensor, b: Tensor) -> Any:
            if a.shape[3] > b.shape[3]:
                a = a[..., : b.shape[3]]
            return self.conv(a) + self.conv(b)

    gm = check_trace(Crop(), (images(2, 3, 8, 9), images(2, 3, 8, 6)), (images(2, 3, 8, 12), images(2, 3, 8, 5)))
    assert any(
        line.startswith(f"specialised on a.shape[3], b.shape[3] at {place(Crop, 'a.shape[3] >')}: ")
        for line in notes(gm)
    )


def test_a_size_that_a_position_table_fixes_is_not_taken_for_open() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.table = nn.Linear(6, 4), nn.Parameter(torch.zeros(1, 5, 6))

        def forward(self, x: Tensor) -> Any:
            return self.fc(x + self.table)

    gm = check_trace(Positions(), images(2, 5, 6))
    assert qatc.ir.tensor_type(next(iter(gm.graph.nodes))).shape == (None, 5, 6)  # type: ignore[union-attr]


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor) -> Any:
        return F.avg_pool2d(self.conv(x), x.shape[2:])


class Coordinates(Pooled):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x) * torch.linspace(-1, 1, x.shape[3])


@pytest.mark.parametrize(("kind", "line"), [(Pooled, "avg_pool2d"), (Coordinates, "linspace")])
def test_an_op_that_takes_no_size_is_a_decision_at_its_line(kind: type[nn.Module], line: str) -> None:
    gm = check_trace(kind(), images(2, 3, 8, 6))
    assert f"specialised on x.shape[3] at {place(kind, line)}: x.shape[3] is 6" in notes(gm)


def test_a_model_that_decides_again_and_again_keeps_the_sizes_of_the_example() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            for step in range(2, 200):
                if y.shape[2] % step == 1:
                    y = y + 1
            return y

    gm = check_trace(Windows(), images(2, 3, 9, 9))
    assert notes(gm) == (
        "sizes of x other than the batch are fixed to those of the example inputs: the model decides on them again and "
        "again",
    )


def test_arithmetic_on_sizes_is_stays_symbolic() -> None:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            b, c, h, w = x.shape
            y = x.view(b, c, h // 2, 2, w // 2, 2).mean((3, 5))
            y = self.conv(y).flatten(2) * (h * w) ** -0.5
            return y.view(b, -1, h // 2, w // 2) / max(1, b)

    gm = check_trace(Patches(), images(2, 3, 8, 8), images(3, 3, 12, 10))
    assert "floordiv" in targets(gm)


def test_the_guards_of_torchs_own_kernels_are_no_decisions() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool, self.fc = conv(3, 4), nn.AdaptiveAvgPool2d(2), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Any:
            y = F.pad(self.conv(x), (1, 2, 0, 1))
            return self.fc(self.pool(y).flatten(1))

    assert notes(check_trace(Plain(), images(2, 3, 8, 8), images(2, 3, 12, 9))) == ()
