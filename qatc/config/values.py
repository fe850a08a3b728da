"""What a setting may be: its type, its values, and the sentence that documents it; each setting carries all three."""

import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, Union

from qatc.errors import ConfigError, unknown


@dataclass(frozen=True)
class Values:
    """What a setting may hold beyond its type: `text` says it, `check` raises a `ConfigError` where it is not so."""

    text: Callable[[], str]
    check: Callable[[Any], object]


def names_of(kind: str, table: Callable[[], Iterable[str]]) -> Values:
    """Return the names of a table, looked up at each use, since users add to the tables."""

    def check(name: str) -> None:
        if name not in table():
            raise unknown(kind, name, table(), "there are: {}")

    return Values(lambda: ", ".join(f"`{name}`" for name in table()), check)


def setting(default: Any, doc: str, values: Values | None = None) -> Any:
    """Return a field of a settings class: its default, what it means, what it may be."""
    return field(default=default, metadata={"doc": doc, "values": values})


def check_settings(settings: Any, like: type | None = None) -> None:
    """Refuse what is not of its field's type, or not among its values.

    `like` is the class whose fields of the same names say what may stand there, where the settings' own do not; None
    stands for "not given" where the field's type has it.
    """
    say = {f.name: f for f in fields(like)} if like is not None else {}
    for own in fields(settings):
        value = getattr(settings, own.name)
        hint = hints(type(settings))[own.name]
        if not fits(value, hint):
            raise ConfigError(f"{own.name} is {value!r}, not {described(hint)}", remedy=_remedy(say.get(own.name, own)))
        values = say.get(own.name, own).metadata.get("values")
        if value is not None and values is not None:
            values.check(value)


def hints(kind: type) -> dict[str, Any]:
    """Return the type of each field of a settings class."""
    return typing.get_type_hints(kind)


def fits(value: Any, hint: Any) -> bool:
    """Say whether the value is of the type; whole numbers are floats too, truth values are no numbers."""
    if hint is Any:
        return True
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        return isinstance(value, tuple) and all(fits(item, parts[0]) for item in value)
    if origin is not None:  # Callable
        return callable(value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type: "a type",
    types.NoneType: "",
}


def described(hint: Any) -> str:
    """Return the type in words: `a whole number`, `true or false`."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join(filter(None, map(described, parts)))
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, parts))
    if typing.get_origin(hint) is tuple:
        return f"a tuple (in TOML an array) of which each item is {described(parts[0])}"
    if parts:
        return "a predicate"
    return str(_WORDS.get(hint, f"a {getattr(hint, '__name__', hint)}"))


def _remedy(own: "Field[Any]") -> str:
    values = own.metadata.get("values")
    return "" if values is None else f"it may be: {values.text()}"
