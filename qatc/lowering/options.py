"""How a file is written, of what its target takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qatc.errors import LoweringError
from qatc.targets import Target
from qatc.targets.target import FloatType, SubByte, WeightForm

# The opsets that first have scales of float16, and codes of 4 bits (onnx, docs/Changelog.md, QuantizeLinear).
_FLOAT16_SCALES, _FOUR_BITS = 19, 21


@dataclass(frozen=True)
class LoweringOptions:
    """How a file is written; what is None is as the target has it. docs/lowering.md has examples.

    Attributes:
        weights: `int8` initializers of codes with DequantizeLinear, or `float` ones with QuantizeLinear and
            DequantizeLinear; both give the same codes.
        sub_byte: how codes of fewer than 8 bits are written: `widen` in 8-bit tensors, `native` in ONNX's 4-bit types
            (2-bit ones from opset 25), `qcdq` behind QuantizeLinear and Clip, weights too.
        float_dtype: the type of what is not quantized, and of the scales.
        io_dtype: the type of float inputs and outputs; where it is not `float_dtype`, a Cast stands at the ends.
        batch: the number of samples; None leaves it open.
        dynamic: the dimensions of inputs that stay open, beside the batch, by the input's name in the file:
            `{"x": (2, 3)}`.

    Raises:
        LoweringError: values that are none, or that do not go together.

    """

    weights: WeightForm | None = None
    sub_byte: SubByte | None = None
    float_dtype: FloatType = "fp32"
    io_dtype: FloatType = "fp32"
    batch: int | None = None
    dynamic: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("weights", self.weights, (None, "int8", "float"))
        _check("sub_byte", self.sub_byte, (None, "widen", "native", "qcdq"))
        _check("float_dtype", self.float_dtype, ("fp32", "fp16"))
        _check("io_dtype", self.io_dtype, ("fp32", self.float_dtype))
        if self.batch is not None and (type(self.batch) is not int or self.batch < 1):
            raise LoweringError(f"batch {self.batch!r} is no number of samples", remedy="give 1 or more, or None")
        for name, dims in self.dynamic.items():
            if not dims or not all(type(dim) is int and dim > 0 for dim in dims):
                raise LoweringError(
                    f"dynamic {name}: {dims!r} are no dimensions behind the batch", remedy="give those of 1 and more"
                )

    def narrowed(self, target: Target) -> Target:
        """Return the target, its file written as asked.

        Raises:
            LoweringError: it does not take one of the forms.

        """
        file = target.file
        sub_byte = self.sub_byte or file.sub_byte[0]
        _check_taken(target, "codes of fewer than 8 bits", "sub_byte", sub_byte, file.sub_byte)
        _check_taken(target, "floats", "float_dtype", self.float_dtype, file.floats)
        low_bits = file.low_bits
        if sub_byte == "qcdq":
            low_bits = "clip_codes"
        elif sub_byte == "native" and "activations" in file.native:
            low_bits = "clip_values"  # no operator clips them
        written = replace(
            file, weights=self.weights or file.weights, sub_byte=(sub_byte,), floats=(self.float_dtype,),
            low_bits=low_bits, native=file.native if sub_byte == "native" else frozenset(),
        )  # fmt: skip
        return replace(target, file=written)

    def least_opset(self, fewest_bits: int, target: Target) -> int:
        """Return the first opset that has the types asked for, of a model with codes of so few bits."""
        native = self.sub_byte or target.file.sub_byte[0]
        least = _FOUR_BITS if native == "native" and fewest_bits <= 4 else 0
        return max(least, _FLOAT16_SCALES if self.float_dtype == "fp16" else 0)


def _check(name: str, value: object, among: tuple[object, ...]) -> None:
    if value not in among:
        known = ", ".join(str(one) for one in dict.fromkeys(among) if one is not None)
        raise LoweringError(f"{name} is {value!r}", remedy=f"choose one of: {known}")


def _check_taken(target: Target, what: str, option: str, wanted: str, taken: tuple[str, ...]) -> None:
    if wanted not in taken:
        raise LoweringError(
            f"{target.name} does not take {what} as {wanted}", remedy=f"{option}: it takes {', '.join(taken)}"
        )


DEFAULT = LoweringOptions()
