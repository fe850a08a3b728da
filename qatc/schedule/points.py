"""Points of a training run: in steps, in epochs, as a share of the run, or a sum of these."""

import math
import re
from typing import NamedTuple

from qatc.errors import ConfigError

Written = int | float | str

_TERM = re.compile(r"\s*([+-]?)\s*(\d+(?:\.\d*)?|\.\d+)\s*(steps?|epochs?|%)\s*")
_FORMS = "write 500 (steps), 0.1 (of the run), '2 epochs', '500 steps', '10 %', or a sum: '50 % - 1 epoch'"


class Point(NamedTuple):
    """A sum of steps, epochs and a share of the whole run."""

    steps: float = 0.0
    epochs: float = 0.0
    share: float = 0.0

    def resolved(self, steps_per_epoch: int | None, total: int | None, what: str) -> int:
        """Return the step, at least 0; a `ConfigError` that names `what` if the run is not known well enough."""
        if self.epochs and steps_per_epoch is None:
            raise ConfigError(f"{what} is in epochs", remedy="give steps_per_epoch, as len(loader)")
        if self.share and total is None:
            raise ConfigError(f"{what} is a share of the run", remedy="give total_steps, or epochs and steps_per_epoch")
        step = self.steps + self.epochs * (steps_per_epoch or 0) + self.share * (total or 0)
        return max(0, math.floor(step + 0.5))

    def surely_before(self, other: "Point") -> bool:
        """Say whether this comes before the other in every run."""
        parts = list(zip(self, other, strict=True))
        return self != other and all(own <= theirs for own, theirs in parts)


def point(written: Written, what: str) -> Point:
    """Return the point: a whole number is steps, a fraction up to 1 a share of the run, a text says its units.

    Raises:
        ConfigError: it means nothing; the error names `what`.

    """
    if isinstance(written, str):
        return _sum(written, what)
    if isinstance(written, int) and written >= 0:
        return Point(steps=written)
    if isinstance(written, float) and 0.0 <= written <= 1.0:
        return Point(share=written)
    raise ConfigError(f"{what} is {written!r}, no point of a run", remedy=_FORMS)


def _sum(text: str, what: str) -> Point:
    amounts = {"step": 0.0, "epoch": 0.0, "%": 0.0}
    position = 0
    while position < len(text) or not text:
        term = _TERM.match(text, position)
        if term is None or (position > 0 and not term[1]):
            raise ConfigError(f"{what} is {text!r}, no point of a run", remedy=_FORMS)
        amounts[term[3].removesuffix("s")] += float(f"{term[1]}{term[2]}")
        position = term.end()
    return Point(amounts["step"], amounts["epoch"], amounts["%"] / 100)
