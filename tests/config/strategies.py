"""Any configuration that a file can hold: from the fields of the classes, so a new one is drawn too."""

import types
import typing
from dataclasses import fields
from typing import Any

from hypothesis import strategies as st

from qatc.config import LayerConfig, QConfig, Rule
from qatc.config.values import hints
from qatc.errors import ConfigError
from qatc.schedule import Schedule
from qatc.targets import TARGETS

_LETTERS = "abr:.*e\u00e9\u4e16'\"\\[]=#- \t\r\n\0\x7f"
_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-2, 20),
    str: st.text(_LETTERS, max_size=5),
    float: st.floats(0, 2),
    types.NoneType: st.none(),
}


def settings(kind: type, **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return the valid ones among all values of the fields' types."""
    names = [field.name for field in fields(kind) if field.name not in fixed]
    drawn = {name: one_of(kind, name) for name in names}
    return st.fixed_dictionaries(fixed, optional=drawn).map(lambda given: _made(kind, given))


def _made(kind: type, given: dict[str, Any]) -> Any:
    """Make the settings, leaving out what is refused."""
    kept: dict[str, Any] = {}
    for name, value in given.items():
        try:
            kind(**kept, **{name: value})
        except (ConfigError, TypeError):
            continue
        kept[name] = value
    return kind(**kept)


def one_of(kind: type, name: str) -> st.SearchStrategy[Any]:
    """Return values of a field's type; names that its documentation lists are among the texts."""
    hint = hints(kind)[name]
    values = next((f.metadata.get("values") for f in (*fields(LayerConfig), *fields(kind)) if f.name == name), None)
    listed = [] if values is None else values.text().replace("`", "").split(", ")
    parts = typing.get_args(hint) or (hint,)
    return st.one_of(*(st.sampled_from(listed) if p is str and listed else _of(p) for p in parts))


def _of(part: Any) -> st.SearchStrategy[Any]:
    literals = typing.get_args(part)
    return st.sampled_from(literals) if literals else _PLAIN[part]


# Ends of stages in order, each in a unit of its own so that none is before another in every run.
schedules = st.one_of(
    st.just(Schedule()),
    settings(Schedule, lr_scale=st.floats(0.01, 2)),
    st.builds(Schedule, record=st.integers(0, 9), delay=st.sampled_from(["2 epochs", "10 %", "50 % - 1 epoch"])),
)
_patterns = st.one_of(
    st.sampled_from([":first", ":last", "re:layer\\d+\\..*", "type:Conv2d", "*", 'a"b\\', "a\nb"]),
    st.text(_LETTERS).filter(lambda text: not text.startswith((":", "re:"))),
)


def configs() -> st.SearchStrategy[QConfig]:
    """Return whole configurations."""
    rules = st.lists(settings(Rule, match=_patterns), max_size=3).map(tuple)
    target = st.sampled_from([None, *TARGETS])
    return settings(QConfig, default=settings(LayerConfig), rules=rules, target=target, schedule=st.none() | schedules)
