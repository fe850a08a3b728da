"""The page in a real browser: what a reader does, by pointer and keys, and that it says nothing to anyone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By

from qatc.view import Dump, Histogram, Measured, page_of, read_folder
from tests.view.dumps import HOSTILE, dump_of, hostile, long, node, real, real_folder
from tools.browser import chromium, missing

MINUS = "\N{MINUS SIGN}"
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def driver() -> Iterator[Chrome]:
    with chromium() as browser:
        yield browser


class Reader:
    """Opens a page, and sees and does what a reader can."""

    def __init__(self, driver: Chrome, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def opens(self, dump: Dump) -> "Reader":
        page = self.folder / "page.html"
        page.write_bytes(page_of(dump).encode(errors="replace"))
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get("about:blank")
        self.driver.get(page.as_uri())
        return self

    def presses(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)
        self.waits()

    def clicks(self, selector: str) -> None:
        self.driver.find_element(By.CSS_SELECTOR, selector).click()
        self.waits()

    def waits(self) -> None:
        """Wait for the next frame, in which what was done is drawn."""
        self.driver.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")

    def sees(self, selector: str) -> list[str]:
        return [found.text for found in self.driver.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()]

    def asks(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(f"return {script}", *arguments)

    @property
    def step(self) -> str:
        return self.sees("#passes [aria-selected=true] .name")[0]

    @property
    def node(self) -> str:
        return self.sees("#details h2")[0]

    @property
    def complaints(self) -> list[str]:
        """What the console said, and requests for anything but the page itself."""
        messages = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return messages + [url for url in urls if not url.startswith(("about:", (self.folder / "page.html").as_uri()))]


@pytest.fixture
def reader(driver: Chrome, tmp_path: Path) -> Iterator[Reader]:
    found = Reader(driver, tmp_path)
    yield found
    assert not found.complaints


def place_of(reader: Reader, name: str) -> dict[str, float]:
    """Return where a node is drawn, in pixels of the canvas."""
    place: dict[str, float] = reader.asks("graphView.cy.getElementById(arguments[0]).renderedPosition()", name)
    return place


def pointing_at(reader: Reader, name: str) -> ActionChains:
    """Return the pointer's actions, the first of which goes to a node of the graph."""
    canvas, place = reader.driver.find_element(By.ID, "canvas"), place_of(reader, name)
    from_middle = (round(place["x"] - canvas.size["width"] / 2), round(place["y"] - canvas.size["height"] / 2))
    return ActionChains(reader.driver).move_to_element_with_offset(canvas, *from_middle)


def test_passes_are_listed_with_counts_and_times_and_those_without_change_are_grey(reader: Reader) -> None:
    reader.opens(real())
    assert reader.sees("#passes .name") == [step.name for step in real().steps]
    quiet = [step.name for step in real().steps if step.nodes is None]
    assert reader.sees("#passes .quiet .name") == quiet
    assert "fold-bn-self" not in quiet
    counts = dict(zip(reader.sees("#passes .name"), reader.sees("#passes .delta"), strict=True))
    nodes = {step.name: len(step.nodes or ()) for step in real().steps}
    assert counts["trace"] == str(nodes["trace"])
    assert counts["fuse-conv-bn-act"] == f"{MINUS}{nodes['functional-to-module'] - nodes['fuse-conv-bn-act']}"
    assert all("ms" in time or " s" in time for time in reader.sees("#passes .time"))


def test_keys_go_from_pass_to_pass_and_skip_those_that_changed_nothing(reader: Reader) -> None:
    reader.opens(real())
    changed = [step.name for step in real().steps if step.nodes is not None]
    assert reader.step == changed[1], "the first that changed something"
    reader.presses("j")
    assert reader.step == changed[2]
    reader.presses("k", "k", "k")
    assert reader.step == changed[0]
    reader.clicks("#skip")
    reader.presses("j")
    assert reader.step == real().steps[1].name
    reader.asks("goTo(0)")
    reader.driver.find_element(By.ID, "passes").send_keys(Keys.ARROW_DOWN)
    assert reader.step == real().steps[1].name


def test_a_pass_that_changed_nothing_shows_the_graph_without_marks(reader: Reader) -> None:
    reader.opens(real())
    quiet = next(i for i, step in enumerate(real().steps) if step.nodes is None)
    reader.clicks(f"#pass-{quiet}")
    assert "changed nothing" in reader.sees("#details")[0]
    assert not reader.sees("#legend li")
    assert len(reader.sees("#window .cell")) == len(real().steps[quiet - 1].nodes or ())


def test_a_pass_is_shown_side_by_side_with_the_words_that_changed(reader: Reader) -> None:
    reader.opens(real())
    index = [step.name for step in real().steps].index("fuse-conv-bn-act")
    reader.clicks(f"#pass-{index}")
    assert reader.sees("#before") == ["before: functional-to-module"]
    assert reader.sees("#after") == ["after: fuse-conv-bn-act"]
    marks = reader.sees('[data-row] .cell.changed[data-name="conv"] mark')
    assert marks[0] == "Conv2d"
    assert "FusedConv2d" in marks
    assert any("bn=%bn" in mark for mark in marks)
    assert reader.sees('.cell.removed[data-name="bn"]')[0].startswith(MINUS)
    assert reader.sees("#legend .removed")[0].startswith(f"{MINUS} ")
    reader.presses("c")
    assert len(reader.sees(".row")) < reader.asks("now().rows.length"), "only changes, and three lines around each"
    reader.clicks(".row.fold")
    assert not reader.sees(".row.fold")


def test_text_and_graph_share_one_selection(reader: Reader) -> None:
    reader.opens(real())
    reader.clicks(f"#pass-{[step.name for step in real().steps].index('fuse-conv-bn-act')}")
    reader.clicks('[data-name="conv"] .line')
    assert reader.node == "conv"
    assert reader.asks("graphView.cy.$('.selected').map((node) => node.id())") == ["conv"]
    details = reader.sees("#details")[0]
    for said in ("networks.py:", "FusedConv2d", "f32[N,16,16,16]", "trace", "insert-quantizers"):
        assert said in details
    pointing_at(reader, "bn").click().perform()
    reader.waits()
    assert reader.node == "bn"
    assert reader.sees(".cell.selected")[0].startswith(f"{MINUS}\n%bn = BatchNorm2d")
    history = reader.sees(".history > li")
    assert history[0] == "from trace"
    assert history[1].split() == ["gave", "its", "place", "to", "%conv", "in", "fuse-conv-bn-act"]
    reader.clicks(".history [data-select=conv]")
    assert reader.node == "conv"
    reader.clicks(".history li:last-child [data-step]")
    assert reader.step != "fuse-conv-bn-act"
    assert reader.node == "conv", "the selection stays from pass to pass"
    reader.presses(Keys.ESCAPE)
    assert reader.node == reader.step


def test_search_finds_by_name_kind_path_and_file(reader: Reader) -> None:
    reader.opens(real())
    reader.presses("/")
    reader.presses("batchnorm")
    names = [n["name"] for n in real().steps[0].nodes or () if n["kind"] == "BatchNorm2d"]
    assert reader.sees("#found") == [f"1 of {len(names)}"]
    assert reader.node == names[0]
    reader.presses(Keys.ENTER)
    assert reader.node == names[1]
    reader.driver.find_element(By.ID, "canvas").send_keys("n")
    reader.waits()
    assert reader.node == names[2 % len(names)]
    reader.presses("N")
    assert reader.node == names[1]
    for query in ("networks.py:", "depthwise", "%no such node"):
        reader.driver.find_element(By.ID, "query").clear()
        reader.driver.find_element(By.ID, "query").send_keys(query)
        reader.waits()
        assert (reader.sees("#found") == ["no match"]) == query.startswith("%")
    reader.presses(Keys.ESCAPE)
    assert reader.driver.find_element(By.ID, "query").get_attribute("value") == ""


def test_the_graph_is_moved_and_zoomed_by_wheel_strip_and_drag(reader: Reader) -> None:
    reader.opens(long(700))
    reader.presses("k")
    canvas, strip = reader.driver.find_element(By.ID, "canvas"), reader.driver.find_element(By.ID, "graph-strip")

    def view() -> dict[str, float]:
        found: dict[str, float] = reader.asks("({ zoom: graphView.cy.zoom(), ...graphView.cy.pan() })")
        return found

    start = view()
    ActionChains(reader.driver).scroll_from_origin(ScrollOrigin.from_element(canvas), 0, 100).perform()
    reader.waits()
    assert view() == {**start, "y": start["y"] - 100}
    drag = pointing_at(reader, reader.asks("now().after[2].name")).click_and_hold()
    for _ in range(4):
        drag.move_by_offset(10, 15)
    drag.release().perform()
    reader.waits()
    moved = view()
    assert 20 <= moved["x"] - start["x"] <= 40, "though it began on a node"
    assert 30 <= moved["y"] - (start["y"] - 100) <= 60
    assert reader.node == reader.step, "which is not selected by that"
    reader.presses("-")
    assert view()["zoom"] < start["zoom"]
    before = reader.asks("ranksInSight()")
    ActionChains(reader.driver).move_to_element_with_offset(strip, 0, strip.size["height"] // 3).click().perform()
    reader.waits()
    assert reader.asks("ranksInSight()")[0] > before[1], "pressed further down than what was in sight"
    assert reader.asks("graphView.cy.nodes().length") > 10


def test_views_and_theme_are_toggled(reader: Reader) -> None:
    reader.opens(real())
    assert reader.sees("#canvas")
    assert reader.sees("#rows")
    reader.presses("g")
    assert not reader.sees("#text")
    reader.presses("g")
    assert not reader.sees("#graph")
    before = reader.asks("getComputedStyle(document.body).backgroundColor")
    reader.presses("t")
    after = reader.asks("getComputedStyle(document.body).backgroundColor")
    assert before != after
    reader.presses("g")
    border = reader.asks("graphView.cy.nodes('.same')[0].style('background-color')")
    reader.presses("t")
    assert reader.asks("graphView.cy.nodes('.same')[0].style('background-color')") != border
    reader.presses("?")
    assert reader.sees("dialog dt")
    reader.presses(Keys.ESCAPE)
    assert not reader.sees("dialog dt")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_in_both_schemes(reader: Reader, scheme: str) -> None:
    """WCAG 2.2: a contrast of 4.5 to 1 for text."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    reader.opens(real())
    reader.asks(f"goTo({[step.name for step in real().steps].index('fuse-conv-bn-act')})")
    reader.asks("select('bn')")
    assert reader.asks("getComputedStyle(document.documentElement).colorScheme") == scheme
    worst = {name: contrast for name, contrast in reader.asks(_CONTRASTS).items() if contrast < 4.5}
    reader.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert not worst


# The contrast of each element that has text of its own, least by its tag and class; colours as WCAG computes them.
_CONTRASTS = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const paper = (of) => {
    const color = rgb(getComputedStyle(of).backgroundColor);
    return color[3] === 0 ? paper(of.parentElement) : color;
  };
  const worst = {};
  for (const of of document.querySelectorAll('body *')) {
    const text = [...of.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!text || !of.checkVisibility() || of.matches('script, style, :disabled, .none, .none *')) continue;
    const [a, b] = [light(rgb(getComputedStyle(of).color)), light(paper(of))].sort((x, y) => y - x);
    const name = `${of.tagName}.${of.className} in ${of.parentElement.className}`;
    worst[name] = Math.min(worst[name] || 21, (a + 0.05) / (b + 0.05));
  }
  return worst;
})()"""


def test_every_control_is_reached_by_tab_and_has_a_name(reader: Reader) -> None:
    reader.opens(real())
    reached = set()
    for _ in range(40):
        reader.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(reader.asks("document.activeElement.id || document.activeElement.dataset.view || ''"))
    wanted = {"query", "theme", "help", "skip", "passes", "graph", "text", "both", "canvas", "fit", "rows", "details"}
    assert wanted <= reached
    unnamed = """[...document.querySelectorAll('button, input, [role=listbox], [role=application]')].filter((e) =>
      !(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label'))).map((e) => e.outerHTML)"""
    assert not reader.asks(unnamed)
    outline = "getComputedStyle(document.querySelector(':focus-visible')).outlineStyle"
    assert reader.asks(outline) == "solid"


def test_hostile_texts_are_shown_as_they_are(reader: Reader) -> None:
    reader.opens(hostile())
    assert reader.asks("document.title") == f"{HOSTILE} - qatc"
    assert reader.sees("#model") == [HOSTILE]
    for name in (HOSTILE, "constructor", "__proto__", "toString", "$&"):
        reader.asks("select(arguments[0])", name)
        assert reader.node == name
        assert reader.sees(".history > li")
    assert not reader.asks("document.querySelectorAll('img').length")


def test_what_was_measured_is_plotted(reader: Reader) -> None:
    measured = {
        "x": Measured(Histogram(-4, 4, (1, 2, 3, 4, 4, 3, 2, 1), "codes", 1.0, 0.0, (-3, 3)), {"SQNR, dB": 12.5}),
        "y": Measured(figures={"SQNR, dB": 40.0}, curves={"scale": ((0.0, 0.1), (10.0, 0.3))}),
    }
    reader.opens(dump_of([node("x"), node("y", "x")], measured=measured))
    assert reader.sees(".bars li") == ["%x\n12.5", "%y\n40"], "the worst first"
    reader.clicks(".bars button")
    assert len(reader.driver.find_elements(By.CSS_SELECTOR, "svg .clip")) == 2
    assert len(reader.driver.find_elements(By.CSS_SELECTOR, "svg .grid")) == 9
    assert "SQNR, dB" in reader.sees("#details")[0]
    reader.presses("]")
    reader.asks("select('y')")
    assert reader.driver.find_elements(By.CSS_SELECTOR, "svg .curve")


def test_5000_nodes_are_scrolled_through_with_few_elements(reader: Reader) -> None:
    reader.opens(long())
    assert reader.asks("now().rows.length") > 4990
    assert reader.asks("graphView.cy.elements().length") < 300
    assert reader.asks("document.querySelectorAll('.row').length") < 120
    last = reader.asks("now().after.at(-1).name")
    reader.asks("select(arguments[0])", last)
    reader.waits()
    assert reader.asks("graphView.cy.getElementById(arguments[0]).length", last) == 1
    place, box = place_of(reader, last), reader.driver.find_element(By.ID, "canvas").size
    assert 0 < place["x"] < box["width"]
    assert 0 < place["y"] < box["height"]
    assert any(last in line for line in reader.sees(".cell.selected"))
    reader.presses("f")
    assert reader.asks("graphView.cy.nodes().length") < 1500
    assert reader.asks("document.querySelectorAll('.row').length") < 120


def test_a_folder_of_text_alone_is_a_page_too(reader: Reader, tmp_path: Path) -> None:
    for path in real_folder().glob("*.txt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    reader.opens(read_folder(tmp_path))
    assert reader.sees("#passes .name") == [step.name for step in real().steps if step.nodes is not None]
    assert "manifest.json is missing" in reader.sees("#details")[0]
    assert not reader.sees("#skip")
