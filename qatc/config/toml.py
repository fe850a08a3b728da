"""Settings as TOML and back, by the fields of their classes: no key is listed here."""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, get_args, get_origin

import tomli_w

from qatc.config.layers import type_name
from qatc.config.values import hints
from qatc.errors import ConfigError, unknown

T = TypeVar("T")

# The name of the preset that a file starts from; the only key that is no field.
_PRESET = "preset"


def written(settings: Any) -> str:
    """Return settings as TOML; what is None is left out."""
    return tomli_w.dumps(_table(settings))


def _table(settings: Any) -> dict[str, Any]:
    content = {field.name: getattr(settings, field.name) for field in fields(settings)}
    return {name: _plain(value) for name, value in content.items() if value is not None and value != ()}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return _table(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, type):
        return f"type:{type_name(value)}"
    if isinstance(value, str | int | float):
        return value
    name = getattr(value, "__qualname__", None) or getattr(value, "what", None) or type(value).__qualname__
    raise ConfigError(
        f"a rule matches by {name}, which is code and cannot be written",
        remedy="match by name, glob, 're:' or type, or keep this configuration in Python",
    )


def parsed(kind: type[T], text: str, where: str, preset: Callable[[str], T]) -> T:
    """Return settings of that class from TOML text; `where` names the text in errors.

    The key `preset` names the settings to start from: what the file gives goes over them, its rules behind theirs.
    """
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of texts that are not TOML, and of numbers or tables without end
        raise ConfigError(
            f"this is no TOML: {error}", where=where, remedy="docs/configuration.md has examples"
        ) from error
    top = _Place(where, text)
    name = data.pop(_PRESET, None)
    try:
        base = None if name is None else preset(name)
    except ConfigError as error:
        raise top.at(_PRESET).error(error) from error
    return _made(kind, data, top, base)


def _made(kind: type[T], table: Mapping[str, Any], place: "_Place", base: T | None) -> T:
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # a class of settings
    for key in table:
        if key not in known:
            error = unknown("key", key, [*known, _PRESET] if place.is_top else known, "keys here: {}")
            raise place.at(key).error(error)
    given = {
        key: _value(hints(kind)[key], value, place.at(key), getattr(base, key, None)) for key, value in table.items()
    }
    needed = [name for name, field in known.items() if field.default is MISSING and field.default_factory is MISSING]
    for name in needed:
        if name not in given and base is None:
            raise place.error(ConfigError(f"the key {name!r} is missing", remedy=f"add {name} = ..."))
    start = base
    try:
        start = kind(**{name: given[name] for name in needed}) if start is None else start
        return replace(start, **given)  # type: ignore[type-var]  # a dataclass
    except ConfigError as error:
        alone = {needed[0]} if start is None else {key for key in given if _fails(start, key, given[key], error)}
        raise (place.at(alone.pop()) if len(alone) == 1 else place).error(error) from error


def _fails(start: Any, key: str, value: Any, error: ConfigError) -> bool:
    """Say whether this key alone makes the error."""
    try:
        replace(start, **{key: value})
    except ConfigError as same:
        return same.what == error.what
    return False


def _value(hint: Any, value: Any, place: "_Place", base: Any) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            return value
        items = [_value(get_args(hint)[0], item, place.item(n), None) for n, item in enumerate(value, start=1)]
        return (*(base or ()), *items)
    nested = next((option for option in (hint, *get_args(hint)) if is_dataclass(option)), None)
    if nested is not None and isinstance(value, dict):
        return _made(nested, value, place, base)  # type: ignore[arg-type]  # the option is a class
    return value


@dataclass(frozen=True)
class _Place:
    """A place in a TOML text, for errors: the path of keys to it, items of arrays by their number."""

    file: str
    text: str
    path: tuple[str | int, ...] = ()

    @property
    def is_top(self) -> bool:
        return not self.path

    def at(self, key: str) -> "_Place":
        return replace(self, path=(*self.path, key))

    def item(self, number: int) -> "_Place":
        return replace(self, path=(*self.path, number))

    def error(self, error: ConfigError) -> ConfigError:
        line = self._line()
        path = "".join(f" {part}" if isinstance(part, int) else f".{part}" for part in self.path).lstrip(".")
        where = f"{self.file}:{line}" if line else self.file
        return ConfigError(error.what, where=f"{where}, {path}" if path else where, remedy=error.remedy)

    def _line(self) -> int | None:
        """Return the number of the line where the key is given; None where it cannot be told (inline tables)."""
        header: tuple[str | int, ...] = ()
        counts: dict[str, int] = {}
        for number, line in enumerate(self.text.splitlines(), start=1):
            if found := re.match(r"\s*(\[\[?)\s*([\w.\-]+)\s*\]", line):
                counts[found[2]] = counts.get(found[2], 0) + 1
                header = (*found[2].split("."), *([counts[found[2]]] if found[1] == "[[" else ()))
                here = header
            elif found := re.match(r"""\s*["']?([\w\-]+)["']?\s*[.=]""", line):
                here = (*header, found[1])
            else:
                continue
            if here == self.path:
                return number
        return None
