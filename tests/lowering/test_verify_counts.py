"""How many codes may differ: of a function of codes they differ together."""

import torch
from torch import Tensor, nn

import qatc
from qatc.lowering.verification import TensorCheck, Verification
from qatc.lowering.verify import functions_of_codes
from tests.models import conv, images, randomise


class Gated(nn.Module):
    """A sigmoid of a quantized tensor; a product and a sum of two, which are no functions of one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        gated: Tensor = self.b(y * torch.sigmoid(y)) + y
        return gated


def test_a_function_of_codes_is_found_and_a_sum_of_two_tensors_is_none() -> None:
    gm = qatc.prepare(randomise(Gated()), images())
    assert functions_of_codes(gm) == {"sigmoid_q"}


def test_codes_that_differ_together_may_be_more_by_chance() -> None:
    def verification(of_codes: bool) -> Verification:
        check = TensorCheck("y", 1_000_000, 60, 1, 0, 0, of_codes)
        return Verification((check,), 40.0, 40.0, limit=1e-5, step_limit=1, exact=False)

    alone, together = verification(of_codes=False), verification(of_codes=True)
    assert (alone.allowed, alone.passed) == (20, False)  # 10 expected, and 3 times sqrt(10)
    assert (together.allowed, together.passed) == (603, True)  # 3 times sqrt(10 * 1e6 / 256)
