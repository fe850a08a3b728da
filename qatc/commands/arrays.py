"""Arrays that a user gives a command: .npz and .npy files, read without running anything that they hold."""

import os
import zipfile
from pathlib import Path

import numpy as np

from qatc.errors import QatcError, VerificationError, first_line
from qatc.lowering.verify_data import Array

_SMALLER = "take fewer samples"
_WRITE = "write one with numpy.savez(file, x=...)"


def read_arrays(path: Path) -> dict[str, Array]:
    """Return the arrays of a file by name; a single one (.npy) is `arr_0`.

    Raises:
        VerificationError: no such file, no file of arrays, arrays of Python objects, which are pickles, or more than
            half of the machine's memory when unpacked.

    """
    try:
        _check_size(path)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"arr_0": loaded}
        with loaded as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except QatcError:
        raise
    except MemoryError as error:
        raise VerificationError("its arrays do not fit into memory", where=str(path), remedy=_SMALLER) from error
    except FileNotFoundError as error:
        raise VerificationError("there is no such file", where=str(path), remedy="check the path") from error
    except Exception as error:
        raise VerificationError(
            f"this is not a readable .npz of arrays: {first_line(error)[:200]}", where=str(path), remedy=_WRITE
        ) from error
    other = [name for name, array in found.items() if not isinstance(array, np.ndarray)]
    if other or not found:
        raise VerificationError(
            f"this is not a readable .npz of arrays: {other[0][:60] if other else 'nothing'} is in it",
            where=str(path),
            remedy=_WRITE,
        )
    return found


def _check_size(path: Path) -> None:
    """Refuse what memory does not hold: a file of zeros packs a thousand times its size."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    size = sum(entry.file_size for entry in entries)
    if size > limit:
        raise VerificationError(
            f"its arrays take {size / 2**30:.1f} GiB, more than half of this machine's memory",
            where=str(path),
            remedy=_SMALLER,
        )
    if len({entry.filename for entry in entries}) < len(entries):
        raise VerificationError("it has two arrays of one name", where=str(path), remedy=_WRITE)
