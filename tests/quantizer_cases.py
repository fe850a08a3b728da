"""Every quantizer of the tables, over bits and symmetries, calibrated."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice

import pytest
from torch import Tensor

from qatc.quantizers import (
    ACTIVATION_QUANTIZERS,
    WEIGHT_QUANTIZERS,
    Quantizer,
    activation_quantizer,
    weight_quantizer,
)
from qatc.spec import QuantSpec
from tests.models import images

# What the targets ask for; every spec at 4 and 8 bits, the first of them at other widths.
ACTIVATION_SPECS = {
    "unsigned, asymmetric": QuantSpec(signed=False, symmetric=False),
    "signed": QuantSpec(),
    "unsigned": QuantSpec(signed=False),
    "signed, asymmetric": QuantSpec(symmetric=False),
    "signed, pow2": QuantSpec(pow2="up"),
    "asymmetric, pow2": QuantSpec(signed=False, symmetric=False, pow2="up"),
    "signed, pow2 nearest": QuantSpec(pow2="round"),
    "clipped, asymmetric, pow2 nearest": QuantSpec(signed=False, symmetric=False, upper=1.5, pow2="round"),
    "clipped": QuantSpec(signed=False, upper=1.5),
    "clipped, pow2": QuantSpec(signed=False, upper=1.5, pow2="down"),
    "clipped, asymmetric": QuantSpec(signed=False, symmetric=False, upper=1.5),
    "clipped, asymmetric, pow2": QuantSpec(signed=False, symmetric=False, upper=1.5, pow2="up"),
    "clipped, asymmetric, pow2 down": QuantSpec(signed=False, symmetric=False, upper=1.5, pow2="down"),
}
WEIGHT_SPECS = {
    "per channel": QuantSpec(axis=0, narrow=True),
    "one scale": QuantSpec(narrow=True),
    "per input channel": QuantSpec(axis=1, narrow=True),
    "wide": QuantSpec(axis=0),
    "per channel, pow2": QuantSpec(axis=0, narrow=True, pow2="up"),
    "per channel, pow2 nearest": QuantSpec(axis=0, narrow=True, pow2="round"),
}


def calibrated(name: str, spec: QuantSpec, *seen: Tensor, estimate: str | None = None) -> Quantizer:
    """Return an activation quantizer in eval mode that has recorded the values."""
    quantizer = activation_quantizer(name, spec, estimate).eval()
    quantizer.recording = True
    for x in seen:
        assert quantizer(x) is x
    quantizer.recording = False
    quantizer.settle()
    return quantizer


def for_width(table: Mapping[str, type[Quantizer]], bits: int) -> list[str]:
    """Return the quantizers that are for this width."""
    return [name for name, kind in table.items() if bits in kind.widths]


def cases() -> Iterator[tuple[str, Quantizer, Tensor]]:
    """Yield every quantizer with every spec and width it is for, with values that it was calibrated on."""
    for bits in (1, 2, 3, 4, 6, 8, 16):
        few = None if bits in (4, 8) else 2
        x, w = images(512, seed=bits) + 0.3, images(6, 4, 3, 3, seed=bits)
        for name in for_width(ACTIVATION_QUANTIZERS, bits):
            for title, spec in islice(ACTIVATION_SPECS.items(), few):
                yield f"{name}, {title}, {bits} bits", calibrated(name, replace(spec, bits=bits), x), x
        for name in for_width(WEIGHT_QUANTIZERS, bits):
            for title, spec in islice(WEIGHT_SPECS.items(), few):
                quantizer = weight_quantizer(name, replace(spec, bits=bits), w)
                yield f"weight {name}, {title}, {bits} bits", quantizer.eval(), w


_CASES = list(cases())
CASES = [pytest.param(quantizer, x, id=title) for title, quantizer, x in _CASES]
# Those that put x itself on the grid.
PLAIN_CASES = [case for case, (_, quantizer, _) in zip(CASES, _CASES, strict=True) if not quantizer.transforms]
every_case = pytest.mark.parametrize(("quantizer", "x"), CASES)
every_plain_case = pytest.mark.parametrize(("quantizer", "x"), PLAIN_CASES)
every_activation = pytest.mark.parametrize("name", ACTIVATION_QUANTIZERS)
every_kind = pytest.mark.parametrize(
    "quantizer",
    [pytest.param(kind(QuantSpec()), id=name) for name, kind in ACTIVATION_QUANTIZERS.items()]
    + [
        pytest.param(weight_quantizer(n, QuantSpec(), images(6)), id=f"weight {n}")
        for n in for_width(WEIGHT_QUANTIZERS, 8)
    ],
)


def broadcast(value: Tensor, like: Tensor, axis: int | None) -> Tensor:
    """Return a value per channel in a shape that fits `like`."""
    return value if axis is None else value.view([-1 if d == axis else 1 for d in range(like.dim())])
