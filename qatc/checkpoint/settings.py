"""Configurations, specs and targets as plain data: frozen dataclasses, by class name and fields."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from torch import nn

from qatc.checkpoint.names import Allowed, dotted_name
from qatc.checkpoint.plain import READERS, Readers, decode, encode, not_plain
from qatc.config import LayerConfig, QConfig, Rule
from qatc.errors import CheckpointError, ConfigError
from qatc.schedule import Plan, Schedule
from qatc.spec import QuantSpec
from qatc.targets import TARGETS, ActivationRule, FileRule, FixedGrid, OpRule, Target, VerifyRule, WeightRule

T = TypeVar("T")

_CLASSES: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        QuantSpec, LayerConfig, Rule, QConfig, Schedule, Plan,
        Target, ActivationRule, WeightRule, OpRule, FixedGrid, FileRule, VerifyRule,
    )
}  # fmt: skip


@dataclass(frozen=True)
class UnsavedMatch:
    """Stands in a loaded configuration for what a rule matched by, where a file cannot hold that: code."""

    what: str

    def __call__(self, name: str, module: nn.Module) -> bool:
        """Refuse to guess."""
        raise ConfigError(
            f"a rule of this configuration matched by {self.what}, which was not saved",
            remedy="make the QConfig anew to prepare another model; in the loaded one the rule is applied already",
        )


def setting(value: Any) -> Any:
    """Encode one of the settings' classes; the `other` of `plain.encode`."""
    kind = type(value)
    if _CLASSES.get(kind.__name__) is not kind:
        return not_plain(value)
    content = {field.name: getattr(value, field.name) for field in fields(value)}
    return {"settings": encode([kind.__name__, content], _match if kind is Rule else setting)}


def _match(value: Any) -> Any:
    """Encode what a rule matches by: a type by its name, a predicate by what is to be said of it."""
    what = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    if isinstance(value, UnsavedMatch):
        return {"unsaved": value.what}
    try:
        return {"class": dotted_name(value)} if isinstance(value, type) else {"unsaved": f"the predicate {what}"}
    except CheckpointError:
        return {"unsaved": f"the type {what}"}


def setting_readers(allowed: Allowed) -> Readers:
    """Return the readers of plain data with those of settings."""

    def read_class(name: str) -> Any:
        try:
            return allowed.module_class(name)
        except CheckpointError:
            return UnsavedMatch(f"the type {name}")

    def read_settings(parts: list[Any]) -> Any:
        name, content = parts
        return _CLASSES[name](**content)

    return {**READERS, "settings": read_settings, "class": read_class, "unsaved": UnsavedMatch}


def config_data(config: QConfig | None) -> Any:
    """Return the configuration as plain data."""
    return encode(config, setting)


def target_data(target: Target | None) -> Any:
    """Return the target as plain data: one of qatc's own by name, any other whole."""
    return target.name if target is not None and TARGETS.get(target.name) == target else encode(target, setting)


def config_from(data: Any, allowed: Allowed) -> QConfig | None:
    """Return the configuration that was saved."""
    return _checked(decode(data, setting_readers(allowed)), QConfig)


def target_from(data: Any, allowed: Allowed) -> Target | None:
    """Return the target that was saved."""
    if type(data) is str:
        if data not in TARGETS:
            raise CheckpointError(
                f"the model was prepared for {data!r}, which this version does not know",
                remedy=f"install the version of qatc that it was saved with; targets here: {', '.join(TARGETS)}",
            )
        return TARGETS[data]
    return _checked(decode(data, setting_readers(allowed)), Target)


def _checked(value: Any, kind: type[T]) -> T | None:
    if value is None or isinstance(value, kind):
        return value
    raise CheckpointError(f"the file is damaged: a {type(value).__name__} stands where a {kind.__name__} should")
