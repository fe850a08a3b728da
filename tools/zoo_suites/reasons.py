"""Why a model failed, in one line."""

import re
import traceback
from pathlib import Path

import torch

from qatc.errors import QatcError

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)
_LONGEST = 320
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Disagreement(Exception):
    """Two forms of a model do not compute the same; the message says what parts, and by how much."""


def reason_of(error: BaseException) -> str:
    """Return what the exception says, and where: the place that it names, or the innermost line that is not torch's."""
    kind = "" if isinstance(error, Disagreement) else f"{type(error).__name__}: "
    if isinstance(error, QatcError):
        place = f" at {error.where}" if error.where else ""
        deepest = _deepest(error)
        because = f" ({type(deepest).__name__}: {_first_line(deepest)})" if deepest is not error else ""
        return shortened(f"{kind}{error.what}{place}{because if _first_line(deepest) not in error.what else ''}")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((_TORCH, _HERE, "<"))]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return shortened(f"{kind}{_first_line(error)}{place}")


def _deepest(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = (_COLOURS.sub("", line).strip() for line in str(error).splitlines())
    return next(filter(None, lines), "")


def shortened(text: str) -> str:
    """Return a line that fits a table."""
    line = " ".join(_COLOURS.sub("", text).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def is_out_of_memory(error: Exception) -> bool:
    """Say whether the process had no memory left."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "bad_alloc" in str(error)
