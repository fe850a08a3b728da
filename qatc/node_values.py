"""What is known of a node's tensor and of where it is from, as values; `qatc.ir` hands them out."""

from dataclasses import dataclass

import torch

_SHORT = {
    torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64", torch.int64: "i64",
    torch.int32: "i32", torch.int8: "s8", torch.uint8: "u8", torch.bool: "bool",
}  # fmt: skip


@dataclass(frozen=True)
class TensorType:
    """Element type and shape; a dimension that follows the batch, or is open in the file, is None."""

    dtype: torch.dtype
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        dims = ",".join("N" if d is None else str(d) for d in self.shape)
        return f"{_SHORT.get(self.dtype, str(self.dtype).removeprefix('torch.'))}[{dims}]"


@dataclass(frozen=True)
class BatchSize:
    """A size that follows the batch: `factor * batch + rest`."""

    factor: int = 1
    rest: int = 0

    def __str__(self) -> str:
        scaled = "batch" if self.factor == 1 else f"{self.factor}*batch"
        return f"{scaled} + {self.rest}" if self.rest > 0 else f"{scaled} - {-self.rest}" if self.rest else scaled


@dataclass(frozen=True)
class OpenSize:
    """A size that is open beside the batch; an input's has a name. `example` is what it was in tracing."""

    example: int
    name: str = ""


Dims = tuple[int | BatchSize | OpenSize, ...]


@dataclass(frozen=True)
class Source:
    """Where the user wrote an op: the module's path in the model, and file and line of the call."""

    path: str = ""
    file: str = ""
    line: int = 0

    @property
    def location(self) -> str:
        """`file.py:12`, or an empty text where unknown."""
        return f"{self.file}:{self.line}" if self.file else ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.path, self.location) if part)
