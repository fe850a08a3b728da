"""The errors that a user meets: each says what is wrong, where, and what to do about it."""

import difflib
from collections.abc import Iterable


class QatcError(Exception):
    """Base of every error that qatc raises on purpose; the commands turn it into one message and exit code 2."""

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        lines = [what]
        if where:
            lines.append(f"  at: {where}")
        if remedy:
            lines.append(f"  try: {remedy}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.what, self.where, self.remedy))


def _rebuild(cls: type[QatcError], what: str, where: str, remedy: str) -> QatcError:
    return cls(what, where=where, remedy=remedy)


class QatcWarning(UserWarning):
    """Something that a user should know of a model, though work goes on: what stays in float, what is left out."""


class TraceError(QatcError):
    """The model's Python could not be turned into a graph."""


class PassOrderError(QatcError):
    """A pipeline was built in an order in which it cannot work."""


class InvariantError(QatcError):
    """A pass left the graph in a state that it must not be in."""


class FloatCheckError(QatcError):
    """A prepared model with its quantizers off is not the model that was given."""


class ConfigError(QatcError):
    """A configuration that means nothing, contradicts itself, or matches no layer."""


class CalibrationError(QatcError):
    """A range is missing, or not finite."""


class CheckpointError(QatcError):
    """A file is not a qatc checkpoint, is damaged, or asks for something that loading must not do."""


class LoweringError(QatcError):
    """The model cannot be written as an ONNX file for this target."""


class VerificationError(QatcError):
    """The lowered file does not compute what was simulated."""


class SimulationError(QatcError):
    """A file cannot be simulated in integers, or not on this data."""


class LintError(QatcError):
    """A file that cannot be checked against a target's rules: it is not there, or no whole ONNX model."""


def unknown(kind: str, name: str, known: Iterable[str], remedy: str) -> ConfigError:
    """Return the error for a name that is none of `known`, with the nearest; `{}` in the remedy stands for them all."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError(f"unknown {kind} {name!r}", remedy=hint + remedy.format(", ".join(known)))


def first_line(error: Exception) -> str:
    """Return the first line of another library's error, for a message of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
