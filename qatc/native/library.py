"""Compiles kernels.c for this machine when it is first wanted, and loads it.

A C compiler does that in a fifth of a second; the library lies in a temporary folder until it is loaded. Without a
compiler, or with QATC_NATIVE=0 in the environment, everything runs by PyTorch's own operators.
"""

import ctypes
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)

# No product is fused with a sum, since that would round once instead of twice.
_EXACT = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing"]
# The best first: not every compiler has them.
_FOR_THE_MACHINE: tuple[list[str], ...] = (["-march=native", "-fopenmp"], ["-march=native"], ["-fopenmp"], [])
_LONGEST = 60  # seconds


class Shape(ctypes.Structure):
    """The Shape of kernels.c."""

    _fields_ = (
        ("rows", ctypes.c_ssize_t),
        ("channels", ctypes.c_ssize_t),
        ("inner", ctypes.c_ssize_t),
        ("qmin", ctypes.c_float),
        ("qmax", ctypes.c_float),
        ("above", ctypes.c_float),
        ("threads", ctypes.c_int),
    )


class Ends(ctypes.Structure):
    """The Ends of kernels.c."""

    _fields_ = (
        ("qmin", ctypes.c_float),
        ("qmax", ctypes.c_float),
        ("upper", ctypes.c_float),
        ("least", ctypes.c_float),
        ("symmetric", ctypes.c_int),
        ("is_signed", ctypes.c_int),
    )


_TENSOR, _SHAPE, _ENDS = ctypes.c_void_p, ctypes.POINTER(Shape), ctypes.POINTER(Ends)
_FLOAT, _INT, _NOTHING = ctypes.c_float, ctypes.c_int, None
# What each gives, and what it takes.
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "fake_quantize": (_INT, _SHAPE, *[_TENSOR] * 5),
    "pass_unclipped": (_NOTHING, _SHAPE, *[_TENSOR] * 3),
    "learned_gradient": (_NOTHING, _SHAPE, *[_TENSOR] * 7),
    "extremes": (_NOTHING, _SHAPE, *[_TENSOR] * 3),
    "follow": (_NOTHING, _SHAPE, *[_TENSOR] * 2, _FLOAT, _FLOAT, ctypes.c_int),
    "grid": (_NOTHING, _ENDS, ctypes.c_ssize_t, *[_TENSOR] * 5),
    "averaged_grid": (_NOTHING, _ENDS, _TENSOR, _FLOAT, *[_TENSOR] * 2),
    "cover": (_NOTHING, _SHAPE, *[_FLOAT] * 3, *[_TENSOR] * 5),
    "track": (
        _INT,
        _SHAPE,
        _ENDS,
        *[_TENSOR] * 2,
        _FLOAT,
        _INT,
        _FLOAT,
        *[_TENSOR] * 2,
    ),
}


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels; None where there is no compiler or they are not wanted."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or os.environ.get("QATC_NATIVE") == "0":
        return None
    source = resources.files("qatc.native").joinpath("kernels.c").read_text()
    for options in _FOR_THE_MACHINE:
        try:
            return _compiled(compiler, source, [*_EXACT, *options])
        except (OSError, subprocess.SubprocessError) as error:
            _log.debug("the kernels were not compiled with %s: %s", " ".join(options), error)
    return None


def _compiled(compiler: str, source: str, options: list[str]) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="qatc") as folder:
        made = Path(folder, "kernels.so")
        command = [*compiler.split(), *options, "-shared", "-fPIC", "-x", "c", "-", "-lm", "-o", str(made)]
        subprocess.run(command, input=source, text=True, capture_output=True, check=True, timeout=_LONGEST)
        loaded = ctypes.CDLL(str(made))
    for name, (gives, *takes) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = gives, takes
    return loaded
