"""When a training run records ranges, quantizes, and freezes: the settings, as a value."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from torch import nn
from torch.optim import Optimizer

from qatc.config.values import Values, check_settings, setting
from qatc.errors import ConfigError
from qatc.schedule.plan import Plan
from qatc.schedule.points import Point, Written, point

if TYPE_CHECKING:
    from qatc.schedule.running import RunningSchedule

_POINTS = Values(lambda: "a point of the run, as `500`, `0.1`, `2 epochs`", lambda _: None)


def _positive(value: float) -> None:
    if not 0.0 < value < float("inf"):
        raise ConfigError(f"lr_scale is {value}", remedy="give a positive factor, as 0.1")


@dataclass(frozen=True)
class Schedule:
    """The stages of a run, each up to a point; then training is quantized.

    A point is a number of steps (`500`), a share of the run (`0.1`), a text (`"2 epochs"`, `"500 steps"`, `"10 %"`), or
    a sum of such (`"50 % - 1 epoch"`). A stage whose end is not given is left out.

    NNabla's QATScheduler is `Schedule(wait=a, record=b, freeze_ranges=b, lr_scale=0.1)`, MindSpore's quant_delay
    `Schedule(delay=n)`, the two phases of N2D2's SAT `Schedule(clamp=0.5)`, TI's epochs
    `Schedule(freeze_bn="50 % - 1 epoch", freeze_ranges="50 % + 1 epoch")`.
    """

    wait: Written | None = setting(None, "Until here the model trains in float, and nothing is collected.", _POINTS)
    record: Written | None = setting(
        None, "Until here it trains in float and ranges are collected; here they are set from that.", _POINTS
    )
    delay: Written | None = setting(None, "Until here it trains in float while ranges follow the data.", _POINTS)
    clamp: Written | None = setting(
        None, "Until here values are clamped to their ranges, but not rounded; then they are quantized.", _POINTS
    )
    freeze_bn: Written | None = setting(
        None, "From here on BatchNorms use their running statistics, which stay (`qatc.freeze_bn`).", _POINTS
    )
    freeze_ranges: Written | None = setting(None, "From here on tracked ranges stay (`qatc.freeze_ranges`).", _POINTS)
    lr_scale: float = setting(
        1.0, "Factor of the learning rate in every step that trains quantized.",
        Values(lambda: "above 0", _positive),
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_settings(self)
        last: tuple[str, Point] | None = None
        for name, at in self._points().items():
            if name not in _STAGES:
                continue
            if last is not None and at.surely_before(last[1]):
                raise _out_of_order(name, getattr(self, name), last[0], getattr(self, last[0]))
            last = name, at

    @classmethod
    def of(cls, model: nn.Module) -> "Schedule":
        """Return the schedule that the configuration of a prepared model asks for, as a preset or a file may.

        Raises:
            ConfigError: it asks for none.

        """
        for module in model.modules():
            made_for = getattr(module, "prepared_for", None)
            if made_for is not None and made_for.config.schedule is not None:
                found: Schedule = made_for.config.schedule
                return found
        raise ConfigError(
            "the model's configuration has no schedule", remedy="give the QConfig one, or make a Schedule"
        )

    def start(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        steps_per_epoch: int | None = None,
        epochs: int | None = None,
        total_steps: int | None = None,
        restart: bool = False,
    ) -> "RunningSchedule":
        """Return the schedule of a run; its `step()` goes behind `optimizer.step()`.

        A model that made steps of a schedule goes on from there (after `load_state_dict` or `qatc.load`).

        Args:
            model: what `qatc.prepare` returned, alone or inside wrappers and other modules.
            optimizer: whose learning rate `lr_scale` is for.
            steps_per_epoch: calls of `step()` an epoch; needed for points in epochs.
            epochs: epochs of the run; with steps_per_epoch as good as total_steps.
            total_steps: calls of `step()` in the run; needed for shares of it.
            restart: whether to begin at step 0 whatever steps the model made.

        Raises:
            ConfigError: a point cannot be told, or lies past the end or before an earlier one; no prepared model.

        """
        from qatc.schedule.running import RunningSchedule  # noqa: PLC0415  (it reads prepared models, which hold this)

        if self.lr_scale != 1.0 and optimizer is None:
            raise ConfigError(f"lr_scale is {self.lr_scale}, of no optimizer", remedy="give start() the optimizer")
        return RunningSchedule(model, optimizer, self.plan(steps_per_epoch, epochs, total_steps), restart)

    def plan(self, steps_per_epoch: int | None = None, epochs: int | None = None, total: int | None = None) -> Plan:
        """Return the schedule in steps; arguments and errors are those of `start`."""
        for name, value in (("steps_per_epoch", steps_per_epoch), ("epochs", epochs), ("total_steps", total)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}", remedy="a run has at least one step")
        if total is None and epochs is not None and steps_per_epoch is not None:
            total = epochs * steps_per_epoch
        found = {name: at.resolved(steps_per_epoch, total, name) for name, at in self._points().items()}
        for name, step in found.items():
            if total is not None and step > total:
                raise ConfigError(
                    f"{name} ({getattr(self, name)!r}) is step {step} of a run of {total}",
                    remedy=f"make {name} earlier, or the run longer",
                )
        last, ends = 0, dict.fromkeys(_STAGES, 0)
        for name in _STAGES:
            if found.get(name, last) < last:
                before = next(n for n in _STAGES if found.get(n) == last)
                raise _out_of_order(name, found[name], before, last)
            last = ends[name] = found.get(name, last)
        return Plan(
            **ends, freeze_bn=found.get("freeze_bn"), freeze_ranges=found.get("freeze_ranges"), lr_scale=self.lr_scale
        )

    def _points(self) -> dict[str, Point]:
        written = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "lr_scale"}
        return {name: point(value, name) for name, value in written.items() if value is not None}


# In the order of a run.
_STAGES = ("wait", "record", "delay", "clamp")


def _out_of_order(name: str, at: Written, before: str, last: Written) -> ConfigError:
    return ConfigError(
        f"{name} ends at {at!r}, before {before} does, at {last!r}",
        remedy=f"the stages of a run are, in order: {', '.join(_STAGES)}; each is given by where it ends",
    )
