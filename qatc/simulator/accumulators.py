"""How wide the sums of a lowered file can get, and how wide they get on data."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from qatc.errors import SimulationError, first_line
from qatc.lowering.lowered import Lowered, lowered_proto
from qatc.simulator.node import Node
from qatc.simulator.run import run
from qatc.simulator.values import Array, Sums, Value
from qatc.simulator.worst_case import ADDING, worst_cases

_BATCH = 16


@dataclass(frozen=True)
class Accumulator:
    """The sums of one layer, bias included.

    `worst` is the least and greatest sum that codes within their range can give, whatever the order in which products
    are added; `observed` that on the data. `saturating` of `pairs` of neighbouring weights can add up to more than 16
    bits with codes of 8 bits: `pmaddubsw` on x86-64 without VNNI saturates there, so that the layer computes something
    else. A depthwise convolution has no pairs.
    """

    name: str
    op: str
    terms: int
    worst: tuple[int, int]
    observed: tuple[int, int] | None
    pairs: int
    saturating: int

    @property
    def bits(self) -> int:
        """Bits of a two's complement integer that holds every sum."""
        return _bits(self.worst)

    @property
    def observed_bits(self) -> int | None:
        """Bits that hold what was observed."""
        return None if self.observed is None else _bits(self.observed)

    @property
    def fits_int32(self) -> bool:
        """Whether 32 bits always do."""
        return self.bits <= 32

    @property
    def exact_in_float32(self) -> bool:
        """Whether float32 adds the products without rounding, in any order."""
        return max(-self.worst[0], self.worst[1]) <= 2**24


@dataclass(frozen=True)
class Accumulators(Sequence[Accumulator]):
    """A row per layer that adds products of codes; `str()` is a table."""

    rows: tuple[Accumulator, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def overflowing(self) -> tuple[Accumulator, ...]:
        """Layers whose sums may not fit 32 bits."""
        return tuple(row for row in self.rows if not row.fits_int32)

    def json(self) -> str:
        """Return the rows as JSON."""
        return json.dumps(
            [
                asdict(row)
                | {
                    "bits": row.bits,
                    "observed_bits": row.observed_bits,
                    "fits_int32": row.fits_int32,
                    "exact_in_float32": row.exact_in_float32,
                }
                for row in self.rows
            ],
            indent=1,
        )

    def __str__(self) -> str:
        head = (
            f"{'layer':<40} {'op':<13} {'terms':>6} {'worst case':>13} {'bits':>4} {'observed':>13} {'bits':>4} "
            f"{'int32':>5} {'float32':>7} {'pairs over 16 bits':>19}"
        )
        return "\n".join([head, *map(_line, self.rows), _summary(self)])


def _line(row: Accumulator) -> str:
    observed = ("", "") if row.observed is None else (f"{_largest(row.observed):,}", f"{row.observed_bits}")
    pairs = f"{row.saturating:,} of {row.pairs:,}" if row.pairs else "-"
    return (
        f"{row.name:<40} {row.op:<13} {row.terms:>6} {_largest(row.worst):>13,} {row.bits:>4} {observed[0]:>13} "
        f"{observed[1]:>4} {'fits' if row.fits_int32 else 'NO':>5} {'exact' if row.exact_in_float32 else 'rounds':>7} "
        f"{pairs:>19}"
    )


def _summary(of: Accumulators) -> str:
    exact = sum(row.exact_in_float32 for row in of.rows)
    saturating = sum(row.saturating > 0 for row in of.rows)
    return (
        f"{len(of)} layers: {len(of) - len(of.overflowing)} fit int32, {exact} are exact in float32, "
        f"{saturating} have pairs that 16 bits do not hold"
    )


def _largest(ends: tuple[int, int]) -> int:
    return max(ends, key=abs)


def _bits(ends: tuple[int, int]) -> int:
    return max(value.bit_length() if value >= 0 else (-value - 1).bit_length() for value in ends) + 1


def accumulators(
    model: nn.Module | Lowered | onnx.ModelProto | str | Path, data: Mapping[str, Array] | None = None
) -> Accumulators:
    """Return how wide the sums of each layer get.

    Args:
        model: a prepared and calibrated model, what `qatc.lower` returned, or an ONNX file with QDQ nodes.
        data: an array per input of the file, to observe sums on; the worst case is found without it.

    Raises:
        SimulationError: not a readable ONNX file, or data that does not fit it.

    """
    proto = _proto(model)
    seen = {} if data is None else _observed(proto, data)
    found = (
        Accumulator(row.name, row.op, row.terms, row.ends, seen.get(row.name), row.pairs, row.saturating)
        for row in worst_cases(proto)
    )
    return Accumulators(tuple(found))


def _proto(model: nn.Module | Lowered | onnx.ModelProto | str | Path) -> onnx.ModelProto:
    match model:
        case onnx.ModelProto():
            return model
        case Lowered():
            return model.proto
        case nn.Module():
            return lowered_proto(model).proto
    try:
        return onnx.load(model)
    except FileNotFoundError as error:
        raise SimulationError("there is no such file", where=str(model), remedy="check the path") from error
    except Exception as error:
        raise SimulationError(
            f"this is not a readable ONNX file: {first_line(error)}",
            where=str(model),
            remedy="write it with qatc-lower",
        ) from error


def _observed(proto: onnx.ModelProto, data: Mapping[str, Array]) -> dict[str, tuple[int, int]]:
    """Return the least and greatest sum of each node on the data, some samples at a time."""
    ends: dict[str, tuple[int, int]] = {}
    makers = {name: node for node in proto.graph.node for name in node.output}

    def note(node: Node, inputs: Sequence[Value | None], result: Value) -> None:
        if not isinstance(result, Sums):
            return
        of = node.proto if node.proto.op_type in ADDING else next(
            makers[name] for name, value in zip(node.proto.input, inputs, strict=True) if isinstance(value, Sums)
        )  # fmt: skip
        low, high = int(result.sums.min()), int(result.sums.max())
        before = ends.get(of.name, (low, high))
        # A bias that is added behind comes later: its sums count, too.
        ends[of.name] = min(before[0], low), max(before[1], high)

    for feeds in _parts(proto, data):
        run(proto, feeds, (), observer=note)
    return ends


def _parts(proto: onnx.ModelProto, data: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    inputs = {i.name: i.type.tensor_type.shape.dim for i in proto.graph.input}
    if set(data) == {"arr_0"} and len(inputs) == 1:
        data = {next(iter(inputs)): data["arr_0"]}
    batched = {n for n, dims in inputs.items() if n in data and dims and not dims[0].dim_value}
    samples = max((len(data[name]) for name in batched), default=1)
    for start in range(0, samples, _BATCH):
        yield {n: a[start : start + _BATCH] if n in batched else a for n, a in data.items() if n in inputs}
