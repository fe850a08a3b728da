"""Arrays of a file as batches of a float model's inputs."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from qatc.errors import ConfigError
from qatc.exported import ExportedModel
from qatc.lowering.verify_data import Array, checked_data

BATCH = 32


@dataclass(frozen=True)
class Calibration:
    """Arrays by the names of the model's inputs. Those in `cut` have the samples in dimension 0, others are whole.

    `size` samples are a batch; `whole` says that every batch must be of that size, so that a rest is left out.
    """

    arrays: Mapping[str, Array]
    cut: frozenset[str]
    size: int
    whole: bool

    @classmethod
    def of(cls, arrays: Mapping[str, Array], model: nn.Module, size: int | None, where: str) -> "Calibration":
        """Return the data for a model, `size` samples at once if not None.

        Raises:
            ConfigError: names or numbers that do not fit the model's inputs.
            VerificationError: types that do not fit those of an exported program.

        """
        if size is not None and size < 1:
            raise ConfigError(f"--batch-size {size}: at least 1", remedy="leave it out for 32")
        given = _named(arrays, model, where)
        if isinstance(model, ExportedModel):
            fixed = model.fixed_batch
            types = {n: replace(t, shape=(None, *t.shape[1:])) if t.shape[:1] == (fixed,) else t
                     for n, t in model.inputs.items()}  # fmt: skip
            checked = checked_data(types, given, ())
            cut = frozenset(name for name, kind in types.items() if kind.shape[:1] == (None,))
        else:
            fixed, checked = None, dict(given)
            first = next((len(a) for a in checked.values() if a.ndim), 0)
            cut = frozenset(name for name, array in checked.items() if array.ndim and len(array) == first)
        made = cls(checked, cut, size or fixed or BATCH, fixed is not None)
        if fixed is not None and size not in (None, fixed):
            raise ConfigError(
                f"--batch-size {size}: the program was exported for batches of {fixed}",
                remedy="leave it out, or export with dynamic_shapes=({0: torch.export.Dim.DYNAMIC}, ...)",
            )
        if made.samples < (fixed or 1):
            raise ConfigError(
                f"the data has {made.samples} samples, at least {fixed or 1} are needed", where=where, remedy="add some"
            )
        return made

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return min((len(self.arrays[name]) for name in self.cut), default=1)

    def batches(self) -> list[dict[str, Tensor]]:
        """Return the samples in order, `size` at once, by the names of the inputs."""
        count = self.samples // self.size if self.whole else -(-self.samples // self.size)
        return [self._part(i * self.size, (i + 1) * self.size) for i in range(count)]

    def first(self, samples: int) -> "Calibration":
        """Return about so many of the samples, at least a batch where every batch is whole."""
        count = max(samples // self.size, 1) * self.size if self.whole else samples
        return replace(self, arrays={n: a[:count] if n in self.cut else a for n, a in self.arrays.items()})

    def file_feeds(self) -> dict[str, Array]:
        """Return what a lowered file takes at once: all samples, or a batch where its batch is fixed."""
        count = self.size if self.whole else self.samples
        return {name: array[:count] if name in self.cut else array for name, array in self.arrays.items()}

    def _part(self, start: int, end: int) -> dict[str, Tensor]:
        parts = {n: a[start:end] if n in self.cut else a for n, a in self.arrays.items()}
        return {name: torch.from_numpy(np.array(part)) for name, part in parts.items()}


def _named(arrays: Mapping[str, Array], model: nn.Module, where: str) -> dict[str, Array]:
    """Return the arrays by the names of the model's arguments; `arr_0`, `arr_1` are in their order."""
    parameters = [
        p for p in inspect.signature(model.forward).parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]  # fmt: skip
    names = [p.name for p in parameters]
    needed = [p.name for p in parameters if p.default is p.empty]
    if arrays and all(name == f"arr_{i}" for i, name in enumerate(arrays)) and len(arrays) <= len(names):
        return dict(zip(names, arrays.values(), strict=False))
    found = {name: arrays[name] for name in names if name in arrays}
    if missing := [name for name in needed if name not in found]:
        raise ConfigError(
            f"the data has arrays {sorted(arrays)}, the model takes {', '.join(names)}: {', '.join(missing)} missing",
            where=where,
            remedy=f"write numpy.savez(file, {', '.join(f'{name}=...' for name in needed)})",
        )
    if not found:
        raise ConfigError("the data has no array that the model takes", where=where, remedy=f"it takes {names}")
    return found
