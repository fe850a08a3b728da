"""The quick part of the zoo: models of every suite taken through all stages, in this process."""

from pathlib import Path

import pytest

from tools.zoo_suites.stages import run
from tools.zoo_suites.suites import entry_named

_LINES = [line.split() for line in Path(__file__).with_name("quick.txt").read_text().splitlines() if line[:1] != "#"]


@pytest.mark.parametrize(("suite", "name", "least"), _LINES, ids=[f"{suite}-{name}" for suite, name, _ in _LINES])
@pytest.mark.filterwarnings("ignore")  # of others' models
def test_a_model_goes_all_the_way(suite: str, name: str, least: str) -> None:
    entry = entry_named(suite, name)
    outcome = run(entry)
    assert outcome.reason == "", f"{outcome.stage}: {outcome.reason}"
    assert outcome.stage == (entry.until or "verify")
    assert outcome.share is not None
    assert 100 * outcome.share >= float(least)
    assert len(outcome.leaves) == entry.float_leaves
