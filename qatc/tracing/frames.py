"""Where in the user's files an op was called."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

import torch

from qatc.ir import Source

_TORCH = f"{Path(torch.__file__).parent}{os.sep}"
_SYMPY = f"{os.sep}sympy{os.sep}"
_OURS = f"{Path(__file__).parent.parent}{os.sep}"
_LIBRARIES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


_STATED: ContextVar[Source | None] = ContextVar("stated", default=None)


@contextmanager
def stated(source: Source) -> Iterator[None]:
    """Let what is called in the block be from there: a model that was read from a file has no files of its own."""
    token = _STATED.set(source)
    try:
        yield
    finally:
        _STATED.reset(token)


def stated_source() -> Source | None:
    """Return what a model says of where its ops are from; None where Python's frames tell."""
    return _STATED.get()


def is_ours(file: str) -> bool:
    """Say whether the file is one of qatc's."""
    return file.startswith(_OURS)


def is_framework(file: str) -> bool:
    """Say whether the file is torch's, sympy's or generated code."""
    return file.startswith((_TORCH, "<")) or _SYMPY in file


def outward(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the frame and its callers."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def user_place(entry: str = "", depth: int = 1) -> tuple[str, int]:
    """Return file name and line of the innermost frame of the user's own files, or of a library that they call.

    `entry` names the function of qatc from which on the frames are those of its caller, not of the model.
    """
    fallback = ("", 0)
    for frame in outward(sys._getframe(depth + 1)):
        file = frame.f_code.co_filename
        if is_ours(file):
            if frame.f_code.co_name == entry:
                break
        elif not is_framework(file):
            place = (os.path.basename(file), frame.f_lineno)
            if not any(library in file for library in _LIBRARIES):
                return place
            fallback = fallback if fallback[0] else place
    return fallback


def place_of(error: BaseException) -> str:
    """Return `file.py:12: the line` of the model's innermost frame in an exception's traceback."""
    import traceback  # noqa: PLC0415  (needed only where something failed)

    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if not (is_ours(f.filename) or is_framework(f.filename))
    ]
    if not frames:
        return ""
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}: {frames[-1].line}"
