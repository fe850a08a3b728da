"""The page as a file: what it holds, how little, and that nothing in a dump is more than text to it."""

import base64
import hashlib
import html
import json
import re
import time
from typing import Any

import pytest

from qatc.view import Dump, page_of
from qatc.view.page import SCRIPTS, page_data
from tests.view.dumps import HOSTILE, dump_of, hostile, long, node, real


def data_in(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    )
    return found


def test_the_page_has_every_step_and_every_node_once() -> None:
    shown = data_in(page_of(real()))
    assert [(s["name"], s["seconds"]) for s in shown["steps"]] == [(s.name, s.seconds) for s in real().steps]
    for step, given in zip(shown["steps"], real().steps, strict=True):
        if given.nodes is None:
            assert "nodes" not in step
            continue
        assert [shown["records"][i]["text"] for i in step["nodes"]] == [n["text"] for n in given.nodes]
        assert len(step["places"]) == 2 * len(step["nodes"] + step["removed"])
    records = list(map(json.dumps, shown["records"]))
    assert len(records) == len(set(records))
    assert len(records) < 0.6 * sum(len(step.get("nodes", ())) for step in shown["steps"])


def test_the_histories_name_steps_by_their_place_in_the_page() -> None:
    shown = data_in(page_of(real()))
    names = [step["name"] for step in shown["steps"]]
    born, changed, removed, into = shown["histories"]["bn"]
    assert (names[born], [names[i] for i in changed], names[removed], into) == ("trace", [], "fuse-conv-bn-act", "conv")


def test_a_graph_that_looks_as_before_is_drawn_as_before_without_what_was_removed() -> None:
    both, one = [node("a"), node("b", "a")], [node("a")]
    again = [{**one[0], "text": "%a = Other()"}]
    steps = page_data(dump_of(both, one, again))["steps"]
    assert [len(step["places"]) // 2 for step in steps] == [2, 2, 1]


def test_only_these_scripts_run_and_nothing_is_fetched() -> None:
    page = page_of(real())
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    scripts = re.findall(r"<script id=\"\w+\">(.*?)</script>", page, re.S)
    assert len(scripts) == 2
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy[1]
    assert not re.search(r"<(script|img|iframe|link|object|embed)[^>]*\b(src|href|data)=", page)


def test_texts_of_a_dump_are_never_markup() -> None:
    page = page_of(hostile())
    assert HOSTILE not in page
    assert f"<title>{html.escape(HOSTILE)} - qatc</title>" in page
    assert page.count("</script>") == page_of(real()).count("</script>") == 3
    shown = data_in(page)
    assert shown["records"][0]["name"] == shown["title"] == HOSTILE
    assert "$&" in shown["histories"]


def test_a_lone_surrogate_in_a_name_does_not_stop_the_page() -> None:
    assert b"0 nodes" not in page_of(Dump("\ud800", dump_of([node("\ud800")]).steps)).encode(errors="replace")


def test_a_number_that_json_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        page_of(dump_of([node("x", range=[float("nan"), 1.0])]))


def test_5000_nodes_are_made_into_a_page_in_time_that_grows_with_them() -> None:
    dump = long()
    assert dump.steps[0].nodes is not None
    start = time.process_time()
    size = len(page_of(dump))
    assert time.process_time() - start < 5
    assert size < 6e6


def test_the_page_is_made_of_all_its_scripts() -> None:
    page = page_of(real())
    for name in SCRIPTS:
        assert f"/* {name}.js */" in page
