"""The data that a file is verified on: checked against the inputs' types, and cut into batches."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from qatc.errors import VerificationError
from qatc.ir import TensorType

Array = NDArray[Any]
Feeds = dict[str, Array]
_BATCH = 16


def checked_data(
    types: Mapping[str, TensorType], data: Mapping[str, Array], ignored: Collection[str], batch: int | None = None
) -> Feeds:
    """Return the arrays in the order of the inputs; a `VerificationError` where they do not fit their types.

    Arrays of the names in `ignored` may be there, too. Of a file whose batch is fixed they are whole batches.
    """
    expected = ", ".join(f"{name} {_text(kind)}" for name, kind in types.items())
    if len(types) == 1 and list(data) == ["arr_0"]:
        data = {next(iter(types)): data["arr_0"]}
    if not set(types) <= set(data) <= {*types, *ignored}:
        raise VerificationError(
            f"the data has arrays {sorted(data)}, the model inputs {list(types)}",
            remedy=f"write np.savez(file, {', '.join(f'{n}=...' for n in types)}); expected: {expected}",
        )
    arrays = {name: np.asarray(data[name]) for name in types}
    for name, array in arrays.items():
        dtype, shape = _numpy_type(types[name]), types[name].shape
        sizes = zip(shape, array.shape, strict=False)
        fits = array.ndim == len(shape) and all(size in (None, found) for size, found in sizes)
        if not fits or str(array.dtype) != dtype:
            raise VerificationError(
                f"array {name!r} is {array.dtype} {list(array.shape)}", remedy=f"expected: {expected}"
            )
    if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays.values()):
        raise VerificationError("the data has NaN or infinite values", remedy="verify with data of the real kind")
    samples = {len(array) for name, array in arrays.items() if _has_batch(types[name])}
    if len(samples) > 1 or 0 in samples:
        raise VerificationError("the arrays have no, or different numbers of samples", remedy=f"expected: {expected}")
    if any(count % (batch or 1) for count in samples):
        raise VerificationError(
            f"the data has {samples.pop()} samples, the file's batch is {batch}", remedy=f"give a multiple of {batch}"
        )
    return arrays


def _text(kind: TensorType) -> str:
    return f"{_numpy_type(kind)} [{', '.join('N' if size is None else str(size) for size in kind.shape)}]"


def _numpy_type(kind: TensorType) -> str:
    return str(kind.dtype).removeprefix("torch.")


def _has_batch(kind: TensorType) -> bool:
    return kind.shape[:1] == (None,)


def sample_count(arrays: Feeds, types: Mapping[str, TensorType]) -> int:
    """Return how many samples the arrays hold; one where no input has a batch."""
    return next((len(arrays[name]) for name, kind in types.items() if _has_batch(kind)), 1)


def batches(arrays: Feeds, types: Mapping[str, TensorType], batch: int | None = None) -> Iterator[Feeds]:
    """Yield the samples in order, some at a time, or so many; an input without a batch is whole each time."""
    step = batch or _BATCH
    starts = range(0, sample_count(arrays, types), step)
    for start in tqdm(starts, "verify", disable=None if len(starts) > 1 else True):
        yield {n: array[start : start + step] if _has_batch(types[n]) else array for n, array in arrays.items()}
