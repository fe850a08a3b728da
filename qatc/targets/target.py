"""What a target is: data about what a runtime runs in integers, and how its files must look. No code, no subclasses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

WeightForm = Literal["int8", "float"]
SubByte = Literal["widen", "native", "qcdq"]
FloatType = Literal["fp32", "fp16"]

# What an op needs of a tensor's codes, beyond the target's `ActivationRule`: nothing; a zero point at 0 (a symmetric
# grid: signed, unless the tensor is never negative and the target's codes are unsigned); that, and signed codes.
GridNeed = Literal["any", "symmetric", "signed"]


@dataclass(frozen=True)
class FixedGrid:
    """The grid that a target gives an op's result by itself, whatever the data, for codes of `bits`."""

    bits: int
    scale: float
    zero_point: int
    signed: bool = False


@dataclass(frozen=True)
class OpRule:
    """How a target treats one operator.

    `inputs`: "quantized" asks for a grid on every tensor that it reads; "between" does so only where its result gets
    one; "skip" on every one but the branch that ends in a weighted op, which stays raw for the fused sum (a residual
    add); "any" asks for nothing.
    `output`: "quantized" puts a grid on the result at once (behind the activation fused to it); "wanted" does so where
    an op behind it asks for one, even if seen through ops that move values; "same" says that the op only moves values,
    so the result lies on the input's grid; "again" that it does, but that the runtime moves codes only where the same
    grid stands behind it once more; "any" leaves it to the readers.
    `final`: whether the result also gets its grid where the network ends.
    `into`: ops that take it in where they alone read it (a border of zeros becomes a convolution's padding): it then
    moves values, and reads the grid that they read.
    `grid`: what it needs of the grids that it reads and makes; a tensor's grid is what all of its ops can have.
    `fixed`: the grids of its result, by width, where the target knows them by the op alone (a sigmoid ends at 1).
    `reason`: why the op stays in float, for the report, where it does.
    """

    inputs: Literal["quantized", "between", "skip", "any"] = "any"
    output: Literal["quantized", "wanted", "same", "again", "any"] = "any"
    final: bool = False
    into: frozenset[str] = frozenset()
    reason: str = ""
    grid: GridNeed = "any"
    fixed: tuple[FixedGrid, ...] = ()


@dataclass(frozen=True)
class ActivationRule:
    """Codes of activations: signed, symmetric, and whether a clip in front needs the grid inside it.

    Where they are not signed, a symmetric grid of what may be negative is. `network_input` is what the inputs of the
    network, and the results of ops that have no row, need beyond that: float tensors that become codes.
    """

    signed: bool
    symmetric: bool
    grid_within_clip: bool = False
    network_input: GridNeed = "any"


@dataclass(frozen=True)
class WeightRule:
    """Codes of weights: signed and symmetric everywhere; `narrow` drops the lowest code; channels where allowed."""

    narrow: bool = True
    per_channel: frozenset[str] = frozenset()


@dataclass(frozen=True)
class FileRule:
    """How the file is written.

    `bias`: "int32" with DequantizeLinear, or "float" (on the same grid). `low_bits`: where codes of fewer than 8 bits
    are limited, behind QuantizeLinear on the codes, or before it on the real values. `mean`: the operator for a mean
    over all positions. `transposed`: that for a quantized transposed convolution; "Conv" is its sub-pixel form.
    `batch_norm_kernel`: the size of the depthwise convolution that a quantized BatchNorm of its own becomes.
    `padding`: whether a pad of its own pads codes behind QuantizeLinear or values between DequantizeLinear and it.
    `opset`: least, greatest, default. `guarded`: operators that the runtime would by itself run in integers where they
    stand between two grids, unless an op that it does not look through follows. `pulls_grids`: whether
    the runtime takes Q/DQ in front of ops that only move values, also onto what is an output of the network there.
    `kept_apart`: operators that the runtime would merge with one of these behind them, though that gives other values.

    `weights`: integer initializers with DequantizeLinear, or float ones with both. `sub_byte`: the forms of fewer than
    8 bits that it takes, its default first: in 8-bit tensors, in ONNX's 4-bit and 2-bit types, or behind
    QuantizeLinear and Clip, activations and weights. `native`: what it takes in those types; the rest is widened.
    `floats`: the types that what is not quantized can have.
    """

    opset: tuple[int, int, int]
    bias: Literal["int32", "float"]
    low_bits: Literal["clip_codes", "clip_values"]
    mean: Literal["GlobalAveragePool", "ReduceMean"]
    transposed: Literal["ConvTranspose", "Conv"] = "ConvTranspose"
    batch_norm_kernel: int = 1
    padding: Literal["codes", "values"] = "codes"
    guarded: frozenset[str] = frozenset()
    pulls_grids: bool = False
    kept_apart: Mapping[str, frozenset[str]] = field(default_factory=dict)
    weights: WeightForm = "int8"
    sub_byte: tuple[SubByte, ...] = ("widen",)
    native: frozenset[str] = frozenset()
    floats: tuple[FloatType, ...] = ("fp32",)


@dataclass(frozen=True)
class VerifyRule:
    """How a file for this target is checked: the runtimes that decide, and codes that may differ.

    `runtimes` are names of `qatc.runtimes`, each of which adds what is its own way. `differing` is the share of codes,
    of ops fed with the simulation's own codes, and `step` how far one may be.
    """

    runtimes: tuple[str, ...]
    differing: float
    step: int = 1


@dataclass(frozen=True)
class Target:
    """One deployment target; `ops` is keyed by ONNX operator, and an operator without a row stays in float.

    `most_bits` is the widest code that it takes; `pow2` says that every scale is a power of two, whatever the
    configuration. `epilogues` are the ops that it runs as one with those behind them, with no grid between. `parts`
    are activations x * f(x) that are written as those two, each with a grid of its own (SiLU: a sigmoid and a product);
    `wholes` are those that are one, with a grid at its end alone, also where the model writes two.
    `runtime_options` are those that its runtime or converter needs for such a file; where `options_suffix` is given
    they are also written beside it (`model.onnx`: `model` + suffix).
    """

    name: str
    summary: str
    activation: ActivationRule
    weight: WeightRule
    ops: Mapping[str, OpRule]
    file: FileRule
    verify: VerifyRule
    most_bits: int = 8
    concat: Literal["free", "shared"] = "free"
    epilogues: Mapping[str, frozenset[str]] = field(default_factory=dict)
    lint: tuple[str, ...] = ()
    pow2: bool = False
    parts: frozenset[str] = frozenset()
    wholes: frozenset[str] = frozenset()
    runtime_options: Mapping[str, str | int | float] = field(default_factory=dict)
    options_suffix: str = ""

    def rule(self, kind: str) -> OpRule:
        """Return the row of an operator; one that is not in the table stays in float, and says so."""
        reason = f"{kind} has no integer form on {self.name}"
        return self.ops.get(kind) or OpRule(reason=reason, grid=self.activation.network_input)
