"""What became of one model, as plain data."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

STAGES = ("build", "prepare", "float", "batch", "train", "save", "lower", "verify")


@dataclass
class Outcome:
    """How far a model came, and what was measured on the way; `reason` is empty where it came all the way.

    `seconds` are of CPU time, by stage. `hidden` counts the weights in float leaves, `notes` are tracing's.
    """

    name: str
    stage: str = STAGES[0]
    reason: str = ""
    share: float | None = None
    leaves: list[str] = field(default_factory=list)
    hidden: int = 0
    notes: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    codes: int = 0
    differing: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    out_of_memory: bool = False

    @property
    def passed(self) -> bool:
        """Whether the model came as far as was asked."""
        return not self.reason

    @property
    def specialised(self) -> list[str]:
        """The notes about sizes that the model's own code decided on, or fixed."""
        return [note for note in self.notes if note.startswith(("specialised", "the batch is fixed"))]

    @property
    def total_seconds(self) -> float:
        """CPU time of all stages."""
        return sum(self.seconds.values())

    def data(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return dataclasses.asdict(self)
