import pytest
import torch

from qatc.errors import ConfigError
from qatc.spec import QuantSpec


def test_a_narrow_grid_is_signed_and_symmetric() -> None:
    with pytest.raises(ConfigError, match="narrow"):
        QuantSpec(narrow=True, signed=False)
    with pytest.raises(ConfigError, match="narrow"):
        QuantSpec(narrow=True, symmetric=False)


@pytest.mark.parametrize(
    ("spec", "text", "low", "high", "dtype"),
    [
        (QuantSpec(), "s8", -128, 127, torch.int8),
        (QuantSpec(narrow=True, axis=0), "s8/ch0", -127, 127, torch.int8),
        (QuantSpec(signed=False), "u8", 0, 255, torch.uint8),
        (QuantSpec(4, signed=False, symmetric=False), "u4/asym", 0, 15, torch.uint8),
        (QuantSpec(1, axis=0, narrow=True), "s1/ch0", -1, 1, torch.int8),
        (QuantSpec(2, pow2="up"), "s2/pow2", -2, 1, torch.int8),
        (QuantSpec(3, signed=False, pow2="down", upper=6.0), "u3/pow2-down", 0, 7, torch.uint8),
        (QuantSpec(pow2="round"), "s8/pow2-round", -128, 127, torch.int8),
    ],
)
def test_codes_and_text_of_a_grid(spec: QuantSpec, text: str, low: int, high: int, dtype: torch.dtype) -> None:
    assert (str(spec), spec.qmin, spec.qmax, spec.dtype) == (text, low, high, dtype)
