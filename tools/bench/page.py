"""What the page of `qatc view` costs: to make, to load, and to use, measured in Chromium.

The page of a model, and that of a chain of residual blocks with 5,000 nodes. Times in the browser end with the frame
that shows what was asked for.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from selenium.webdriver import Chrome
from torch import Tensor, nn

import qatc
from qatc.view import page_of, read_folder
from tools.bench.prepare import Residual
from tools.browser import chromium, missing
from tools.models import default_shape, model_named

GOAL_BYTES, GOAL_MADE, GOAL_PAINT, GOAL_SWITCH = 3e6, 5.0, 1.0, 0.1
NODES = 5000
PER_BLOCK = 7

# Each gives the milliseconds until the frame after next begins, when what the call changed is on the screen.
_TIMED = """
const done = arguments[0];
const start = performance.now();
CALL;
requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));
"""
# Moves the graph, or the text, by steps and gives the milliseconds between frames.
_FRAMES = """
const [count, done] = arguments;
const move = () => { CALL; };
const times = [];
let last = null;
function frame(now) {
  if (last !== null) times.push(now - last);
  last = now;
  if (times.length === count) return done(times);
  move();
  requestAnimationFrame(frame);
}
requestAnimationFrame(frame);
"""
# Gives the milliseconds from the start of the load to the first paint of anything, and to the end of the page's script.
_PAINTED = """
const done = arguments[0];
new PerformanceObserver((entries) => {
  const paint = entries.getEntriesByName('first-contentful-paint')[0];
  if (paint) done([paint.startTime, performance.getEntriesByName('ready')[0].startTime]);
}).observe({ type: 'paint', buffered: true });
"""
ROUNDS, MOVES = 3, 60


class Times(NamedTuple):
    """Seconds of each try at one thing."""

    name: str
    tries: list[float]
    goal: float | None = None

    def __str__(self) -> str:
        middle, most = statistics.median(self.tries), max(self.tries)
        goal = f"   (goal: {1000 * self.goal:,.0f} ms)" if self.goal is not None else ""
        return f"  {self.name:<34}{1000 * min(self.tries):>8.0f}{1000 * middle:>8.0f}{1000 * most:>8.0f}{goal}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        "tools/bench/page", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet50", help="as tools/opt takes it (default: %(default)s)")
    parser.add_argument("--nodes", type=int, default=NODES, help="of the chain; 0 for none (default: %(default)s)")
    args = parser.parse_args(argv)
    if reason := missing():
        print(f"page: error: {reason}", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    report(args.model, model_named(args.model), torch.randn(default_shape(args.model)))
    if args.nodes:
        blocks = (Residual() for _ in range(args.nodes // PER_BLOCK))
        report(f"a chain of {args.nodes} nodes", nn.Sequential(*blocks), torch.randn(2, 8, 8, 8), goals=False)
    return 0


def report(name: str, model: nn.Module, x: Tensor, *, goals: bool = True) -> None:
    """Print what the model's page costs, and what it may cost."""
    with tempfile.TemporaryDirectory() as folder:
        dumps, page = Path(folder, "dumps"), Path(folder, "page.html")
        qatc.prepare(model, x, dump_dir=dumps)
        made, size = [], 0
        for _ in range(ROUNDS):
            start = time.perf_counter()
            size = page.write_bytes(page_of(read_folder(dumps)).encode())
            made.append(time.perf_counter() - start)
        print(f"{name}: {size / 1e6:.2f} MB{f' (goal: {GOAL_BYTES / 1e6:g} MB)' if goals else ''}")
        print(f"  {'milliseconds':<34}{'least':>8}{'median':>8}{'most':>8}")
        for times in (Times("made", made, GOAL_MADE), *in_browser(page)):
            print(times if goals else times._replace(goal=None), flush=True)


def in_browser(page: Path) -> list[Times]:
    """Return what it takes to load and to use the page."""
    with chromium() as driver:
        driver.set_script_timeout(60)
        loaded = [_load(driver, page) for _ in range(ROUNDS)]
        found = [
            Times("first paint", [paint for paint, _ in loaded], GOAL_PAINT),
            Times("loaded, graph drawn", [ready for _, ready in loaded]),
        ]
        for view in ("graph", "text", "both"):
            _timed(driver, f"showView('{view}')")
            found.append(Times(f"pass switch, {view}", _switches(driver), GOAL_SWITCH))
        names = driver.execute_script("return now().after.map((node) => node.name)")
        chosen = [names[i * (len(names) - 1) // 9] for i in range(10)]
        found.append(Times("select, both", [_timed(driver, f"select({name!r})") for name in chosen]))
        finds = [_timed(driver, f"$('query').value = {query!r}; search()") for query in ("co", "conv2")]
        found.append(Times("find, both", finds))
        _timed(driver, "$('query').value = ''; search(); select(null); showView('graph')")
        found.append(Times("frame while the graph moves", _frames(driver, "graphView.cy.panBy({ x: 0, y: -40 })")))
        _timed(driver, "fitGraph()")
        found.append(Times("frame while it moves, zoomed out", _frames(driver, "graphView.cy.panBy({ x: 0, y: -10 })")))
        _timed(driver, "showView('text')")
        found.append(Times("frame while the text moves", _frames(driver, "$('rows').scrollTop += 60")))
        return found


def _load(driver: Chrome, page: Path) -> tuple[float, float]:
    """Return the seconds to the first paint and to the end of the first drawing."""
    driver.get("about:blank")
    driver.get(page.as_uri())
    done: list[float] = driver.execute_async_script(_PAINTED)
    return done[0] / 1000, done[1] / 1000


def _switches(driver: Chrome) -> list[float]:
    """Return the seconds of going to each pass that changed something, twice: at first and once more."""
    count = driver.execute_script("return page.steps.length")
    changed = [i for i in range(count) if driver.execute_script("return Boolean(page.steps[arguments[0]].nodes)", i)]
    return [_timed(driver, f"goTo({index})") for _ in range(2) for index in changed]


def _timed(driver: Chrome, call: str) -> float:
    return float(driver.execute_async_script(_TIMED.replace("CALL", call))) / 1000


def _frames(driver: Chrome, call: str) -> list[float]:
    return [ms / 1000 for ms in driver.execute_async_script(_FRAMES.replace("CALL", call), MOVES)]


if __name__ == "__main__":
    sys.exit(main())
