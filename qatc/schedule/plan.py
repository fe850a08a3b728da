"""A schedule in whole steps: what is done at each of them."""

from dataclasses import dataclass

from qatc.quantizers.base import Stage


@dataclass(frozen=True)
class Plan:
    """The steps at which a run changes; steps count from 0, and a model that made n of them is at step n.

    `wait`, `record`, `delay` and `clamp` are where their stages end; a stage that ends where it begins is left out.
    """

    wait: int = 0
    record: int = 0
    delay: int = 0
    clamp: int = 0
    freeze_bn: int | None = None
    freeze_ranges: int | None = None
    lr_scale: float = 1.0

    def stage(self, step: int) -> Stage:
        """Return the stage of a step."""
        stages: tuple[tuple[int, Stage], ...] = (
            (self.wait, "float"), (self.record, "record"), (self.delay, "follow"), (self.clamp, "clamp"),
        )  # fmt: skip
        return next((stage for end, stage in stages if step < end), "quantize")

    @property
    def steps(self) -> frozenset[int]:
        """The steps at which something changes."""
        ends = (self.wait, self.record, self.delay, self.clamp, self.freeze_bn, self.freeze_ranges)
        return frozenset(end for end in ends if end is not None)
