"""What a runtime is to the verification: something that may be installed, and runs an ONNX model."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import onnx
from numpy.typing import NDArray

from qatc.errors import VerificationError

Arrays = Mapping[str, NDArray[Any]]
Session = Callable[[Arrays], Arrays]
"""Takes an array per input (of names that are no inputs, none is used) and gives an array per output, by name.

Floats are cast to the width that an input has, as float16.
"""


@dataclass(frozen=True)
class Runtime:
    """One way to run a file; `package` is what it imports and what pip calls it, `extra` qatc's extra that brings it.

    `start` makes a session of a model; `summary` says what it does with the file. `tie`: within how much of a step of a
    tie between two codes a value may go to the other one, with power-of-two scales too. `agreeing`: of one that fuses
    other things where codes are outputs, the least share of samples for which the file as it is must give the same.
    """

    name: str
    summary: str
    package: str
    start: Callable[[onnx.ModelProto], Session]
    extra: str = ""
    tie: float = 0.0
    agreeing: float = 0.0

    @property
    def installed(self) -> bool:
        """Whether the package is there to be imported."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """The installed version, as `2026.4.1`."""
        return version(self.package)

    def session(self, proto: onnx.ModelProto) -> Session:
        """Return a session of the model; a `VerificationError` if the runtime is not installed or refuses the model."""
        if not self.installed:
            what = f"qatc[{self.extra}]" if self.extra else self.package
            raise VerificationError(f"the runtime {self.name} is not installed", remedy=f"pip install {what}")
        try:
            return self.start(proto)
        except Exception as error:  # each runtime has errors of its own
            raise VerificationError(
                f"{self.name} {self.version} does not take the file: {error}",
                remedy="choose another runtime, or report this",
            ) from error
