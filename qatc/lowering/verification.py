"""What a verification found: codes that differ, tensor by tensor, and whether they are within the target's limits."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_SHOWN = 10
# What the float ops behind the last codes give of equal codes is far above this, in dB; something else is far below.
_LEAST_OUTPUTS = 40.0


@dataclass(frozen=True)
class TensorCheck:
    """One quantized tensor: codes compared, codes that differ and the largest step, per op and end to end."""

    name: str
    codes: int
    differing: int
    step: int
    differing_end_to_end: int
    step_end_to_end: int
    of_codes: bool = False
    """Whether an op of one quantized tensor made it value by value: equal codes in, equal codes out."""
    bits: int = 8
    at_ties: int = 0
    """Of those that differ per op: by one, where the value lies so near a tie that the runtime sees it as one."""
    behind_ties: int = 0
    """Of those that differ end to end: in samples in which a code differs at a tie."""
    power: float = 0.0
    """Sum of the squares of the simulation's dequantized codes, in steps."""
    error: float = 0.0
    """Sum of the squares of what they differ by end to end, in steps."""

    @property
    def together(self) -> float:
        """How many codes differ at once: of a function of codes, all that have the code at a boundary."""
        return max(1.0, self.codes / 2.0**self.bits) if self.of_codes else 1.0

    @property
    def finer(self) -> float:
        """How many of the steps of 8 bits' size its steps are smaller: float32 rounds across as many more ties."""
        return 2.0 ** max(0, self.bits - 8)

    @property
    def sqnr(self) -> float:
        """Signal to noise of the dequantized codes, end to end, in dB; infinite where none differs."""
        return decibel(self.power, self.error)


@dataclass(frozen=True)
class Verification:
    """Simulation against file, on one runtime.

    Per op, each op of the file is fed with the simulation's own codes, so that a flipped code counts once; end to end
    the file runs whole, with its codes as further outputs. `sqnr` is that of the outputs against the simulation's, end
    to end, in dB, and `sqnr_per_op` per op; `jitter_sqnr` that of the simulation against itself with inputs changed by
    a millionth: what differs less is noise of floating point.

    In `samples_behind_ties` of the `samples` a code differs at a tie: end to end, what follows from it differs as well.
    A runtime may fuse other things where codes are outputs: `agreeing` is the share of the samples whose outputs the
    file as it is gives, too, and `least_agreeing` what there must be of them.
    """

    tensors: tuple[TensorCheck, ...]
    sqnr: float
    jitter_sqnr: float
    limit: float
    step_limit: int
    exact: bool
    sqnr_per_op: float = math.inf
    agreeing: float = 1.0
    least_agreeing: float = 0.0
    runtime: str = ""
    version: str = ""
    samples: int = 0
    samples_behind_ties: int = 0

    @property
    def codes(self) -> int:
        """Codes compared."""
        return sum(t.codes for t in self.tensors)

    @property
    def differing(self) -> int:
        """Codes that differ, per op."""
        return sum(t.differing for t in self.tensors)

    @property
    def differing_end_to_end(self) -> int:
        """Codes that differ when the file runs whole."""
        return sum(t.differing_end_to_end for t in self.tensors)

    @property
    def at_ties(self) -> int:
        """Codes that differ, per op, at a tie that the runtime breaks the other way."""
        return sum(t.at_ties for t in self.tensors)

    @property
    def passed(self) -> bool:
        """Whether the file is within the target's limit: with power-of-two scales no code may differ but at ties."""
        if self.sqnr_per_op < _LEAST_OUTPUTS or self.agreeing < self.least_agreeing:
            return False
        if self.exact:
            return all(t.differing == t.at_ties and t.differing_end_to_end == t.behind_ties for t in self.tensors)
        alike = [[t for t in self.tensors if (t.bits <= 8) == narrow] for narrow in (True, False)]
        within = all(sum(t.differing for t in some) <= self._allowed(some) for some in alike)
        return within and all(t.step <= self.step_limit for t in self.tensors)

    @property
    def allowed(self) -> int:
        """Codes that may differ per op: the limit's share, and three standard deviations of such a count by chance.

        Codes of a function of codes (SiLU) do not differ one by one, so their count spreads more. Of b > 8 bits 2^(b-8)
        times as many may differ: no runtime here has integer kernels for them, and float32 rounds at those steps. They
        are counted apart from the others.
        """
        return self.at_ties if self.exact else self._allowed(self.tensors)

    def _allowed(self, some: Sequence[TensorCheck]) -> int:
        expected = sum(self.limit * t.finer * t.codes for t in some)
        variance = sum(self.limit * t.finer * t.codes * t.together for t in some)
        return math.ceil(expected + 3 * math.sqrt(variance))

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data, for JSON: every tensor, and a signal to noise of `null` where nothing differs."""
        return {
            "runtime": self.runtime,
            "version": self.version,
            "passed": self.passed,
            "exact": self.exact,
            "codes": self.codes,
            "differing": self.differing,
            "allowed": self.allowed,
            "at_ties": self.at_ties,
            "step_limit": self.step_limit,
            "differing_end_to_end": self.differing_end_to_end,
            "samples": self.samples,
            "samples_behind_ties": self.samples_behind_ties,
            "agreeing": self.agreeing,
            "outputs_sqnr_db": _finite(self.sqnr),
            "outputs_sqnr_db_per_op": _finite(self.sqnr_per_op),
            "jitter_sqnr_db": _finite(self.jitter_sqnr),
            "tensors": [
                {
                    "name": t.name,
                    "bits": t.bits,
                    "codes": t.codes,
                    "differing": t.differing,
                    "step": t.step,
                    "at_ties": t.at_ties,
                    "differing_end_to_end": t.differing_end_to_end,
                    "step_end_to_end": t.step_end_to_end,
                    "behind_ties": t.behind_ties,
                    "sqnr_db": _finite(t.sqnr),
                }
                for t in self.tensors
            ],
        }

    def __str__(self) -> str:
        head = f"{'tensor':<40} {'codes':>10} {'differ':>8} {'step':>5} {'end to end':>11} {'step':>5} {'SQNR dB':>8}"
        worst = sorted(self.tensors, key=lambda t: (t.differing, t.differing_end_to_end), reverse=True)[:_SHOWN]
        rows = [
            f"{t.name:<40} {t.codes:>10} {t.differing:>8} {t.step:>5} {t.differing_end_to_end:>11} "
            f"{t.step_end_to_end:>5} {t.sqnr:>8.1f}"
            for t in worst
        ]
        ties = (
            f" ({self.at_ties} at ties, in {self.samples_behind_ties} of {self.samples} samples)"
            if self.at_ties
            else ""
        )
        allowed = f"0, end to end{' but for ties' if ties else ''}" if self.exact else f"{self.allowed} per op"
        return "\n".join(
            [
                *([f"{self.runtime} {self.version}"] if self.runtime else []),
                head,
                *rows,
                f"{len(self.tensors)} tensors, {self.codes} codes: {self.differing} differ per op{ties}, "
                f"{self.differing_end_to_end} end to end (allowed: {allowed})",
                f"outputs: SQNR {self.sqnr:.1f} dB, {self.sqnr_per_op:.1f} dB per op; the simulation against itself, "
                f"jittered by 1e-6: {self.jitter_sqnr:.1f} dB",
                *self._said_of_the_file(),
                "verified" if self.passed else "NOT verified: the file does not compute what was simulated",
            ]
        )

    def _said_of_the_file(self) -> list[str]:
        if not self.least_agreeing:
            return []
        asked = f"the runtime fuses other things there; asked for: {self.least_agreeing:.0%}"
        return [f"without its codes as outputs the file gives the same in {self.agreeing:.0%} of the samples ({asked})"]


@dataclass(frozen=True)
class Verifications:
    """Simulation against file, on each runtime that was asked for; `deciding` are the target's own.

    Those of `deciding` that were run decide; where none of them was, all that were.
    """

    target: str
    runs: tuple[Verification, ...]
    deciding: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the file computes what was simulated on every runtime that decides."""
        return all(run.passed for run in self.runs if self.decides(run))

    def decides(self, run: Verification) -> bool:
        """Say whether a run decides."""
        return run.runtime in self.deciding or not any(r.runtime in self.deciding for r in self.runs)

    def as_json(self) -> str:
        """Return all of it as JSON: every tensor on every runtime."""
        runs = [{**run.as_data(), "decides": self.decides(run)} for run in self.runs]
        return json.dumps({"target": self.target, "passed": self.passed, "runtimes": runs}, indent=2, allow_nan=False)

    def __str__(self) -> str:
        notes = ["" if self.decides(run) else f"\n(not what decides for {self.target})" for run in self.runs]
        return "\n\n".join(f"{run}{note}" for run, note in zip(self.runs, notes, strict=True))


def decibel(power: float, error: float) -> float:
    """Return a ratio of powers in dB; infinite where there is no error."""
    return math.inf if error == 0 else 10 * math.log10(max(power, 1e-30) / error)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
