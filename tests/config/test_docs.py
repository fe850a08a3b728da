"""docs/configuration.md has every key, as the classes have it."""

from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest

from qatc import Schedule
from qatc.config import FOUNDERS, PRESETS, LayerConfig, QConfig, Rule
from qatc.config.values import described, hints

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def row(kind: type, field: "Field[Any]") -> str:
    """Return the line of the table for one key."""
    values = field.metadata["values"]
    may_be = values.text() if values is not None else described(hints(kind)[field.name])
    default = "" if field.default is None else f"`{field.default}`"
    return f"| `{field.name}` | {default} | {may_be} | {field.metadata['doc']} |"


@pytest.mark.parametrize("kind", [LayerConfig, Schedule, QConfig])
def test_every_key_is_documented(kind: type) -> None:
    tables = {"default", "rules", "schedule"}  # sections of the page
    wanted = [row(kind, f) for f in fields(kind) if f.name not in tables]
    page = PAGE.read_text(encoding="utf-8").splitlines()
    missing = [line for line in wanted if line not in page]
    assert not missing, "docs/configuration.md lacks:\n" + "\n".join(missing)


def test_a_rule_has_every_key_of_a_layer() -> None:
    assert [f.name for f in fields(Rule)] == ["match", *(f.name for f in fields(LayerConfig))]
    assert all(hints(Rule)[f.name] == hints(LayerConfig)[f.name] | None for f in fields(LayerConfig))


def test_every_preset_is_documented_and_no_other() -> None:
    page = PAGE.read_text(encoding="utf-8")
    section = page[page.index("## Presets") :]
    named = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert named == [*PRESETS, *FOUNDERS]


def test_the_example_of_the_page_is_a_configuration() -> None:
    text = PAGE.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    config = QConfig.parse(text, str(PAGE))
    assert config.schedule is not None
    assert len(config.rules) == 5
