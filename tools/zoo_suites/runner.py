"""Runs models side by side, each in a process of its own, so that a crash or a hang of one ends only that one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tools.zoo_suites.outcome import Outcome
from tools.zoo_suites.reasons import shortened

_ROOT = Path(__file__).parents[2]
_LOOK_EVERY = 0.05


@dataclass(frozen=True)
class Job:
    """A model of a suite."""

    suite: str
    name: str


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    lines: Path
    errors: IO[bytes]
    alone: bool
    started: float = field(default_factory=time.monotonic)

    def outcome(self, limit: float) -> Outcome | None:
        """Return what became of the model once its process has ended, or was ended for taking too long."""
        code = self.process.poll()
        late = code is None and time.monotonic() - self.started > limit
        if code is None and not late:
            return None
        self.end()
        found = self._last()
        if late:
            found.reason = f"took longer than {limit:g} s"
        elif code:
            found.reason = found.reason or self._crash(code)
            found.out_of_memory |= code == -signal.SIGKILL or "bad_alloc" in found.reason
        return found

    def _last(self) -> Outcome:
        text = self.lines.read_text(encoding="utf-8") if self.lines.exists() else ""
        whole = text.rpartition("\n")[0]
        return Outcome(**json.loads(whole.splitlines()[-1])) if whole else Outcome(self.job.name)

    def _crash(self, code: int) -> str:
        self.errors.seek(0)
        said = [line.strip() for line in self.errors.read().decode(errors="replace").splitlines() if line.strip()]
        if code < 0:
            what = f"the process ended with {signal.Signals(-code).name}"
            frame = next((line for line in said if line.startswith("File ")), said[-1] if said else "")
        else:
            what, frame = f"the process ended with exit code {code}", said[-1] if said else ""
        return shortened(f"{what}: {frame}" if frame else what)

    def end(self) -> None:
        """End the process and what it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run_all(
    jobs: Iterable[Job], folder: Path, parallel: int, limit: float, done: Callable[[Job, Outcome], None]
) -> None:
    """Run the models, `parallel` at a time, each for at most `limit` seconds; `done` is told as each ends.

    Each may take its part of the memory. What does not fit in there runs again at the end, alone, with all of it.
    """
    waiting, too_large = deque(jobs), deque[Job]()
    running: list[_Running] = []
    memory = int(0.9 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    count = 0
    try:
        while waiting or running or too_large:
            alone = not waiting and not running
            queue = too_large if alone else waiting
            while queue and len(running) < (1 if alone else parallel):
                count += 1
                share = memory if alone else memory // parallel
                running.append(_start(queue.popleft(), folder / str(count), parallel, share, alone))
            for one in list(running):
                outcome = one.outcome(limit)
                if outcome is None:
                    continue
                running.remove(one)
                one.errors.close()
                if outcome.out_of_memory and parallel > 1 and not one.alone:
                    too_large.append(one.job)
                else:
                    done(one.job, outcome)
            time.sleep(_LOOK_EVERY)
    finally:
        for one in running:
            one.end()
            one.errors.close()


def _start(job: Job, place: Path, parallel: int, memory: int, alone: bool) -> _Running:
    threads = os.cpu_count() or 1 if alone else max(1, (os.cpu_count() or 1) // parallel)
    lines = place.with_suffix(".jsonl")
    errors = place.with_suffix(".err").open("w+b")
    paths = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH", ""))))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "tools.zoo_suites.worker", job.suite, job.name, str(lines), str(memory)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True,
    )  # fmt: skip
    return _Running(job, process, lines, errors, alone)
