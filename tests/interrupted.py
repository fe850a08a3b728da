"""Runs the command and `qatc.save` in processes of their own and kills them at chosen moments; prints what is left.

One process that imports torch once and forks for each case: `interrupted.py FOLDER`, with `model.pt` in it.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import qatc
from qatc.cli import lower_main

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}


CASES = (
    ("before writing", "int"), ("half written", "kill"), ("half written", "term"), ("half written", "int"),
    ("before the rename", "kill"), ("after the rename", "kill"), ("half of a checkpoint", "kill"),
)  # fmt: skip


def _block(reached: int) -> None:
    os.write(reached, b"x")
    time.sleep(60)


def _stop_at(moment: str, reached: int) -> None:
    """Let the process stand still there."""
    patched: dict[str, tuple[Any, str]] = {
        "before writing": (qatc.commands.lower, "write_all"),
        "half written": (os, "fsync"),
        "before the rename": (os, "replace"),
        "after the rename": (os, "replace"),
        "half of a checkpoint": (torch, "save"),
    }
    holder, name = patched[moment]
    whole: Callable[..., Any] = getattr(holder, name)

    def stop(*args: Any, **kwargs: Any) -> None:
        if moment == "half written":
            os.ftruncate(args[0], 100)
        if moment == "half of a checkpoint":
            args[1].write(b"half")
            args[1].flush()
        if moment == "after the rename":
            whole(*args, **kwargs)
        _block(reached)

    setattr(holder, name, stop)


def _work(saves: bool) -> int:
    if not saves:
        return lower_main(["model.pt", "-o", "out.onnx"])
    qatc.save(qatc.load("model.pt"), "out.onnx")
    return 0


def case(moment: str, name: str, old: bytes) -> dict[str, Any]:
    """Kill a process at that moment; return its status, the files then, and whether the old one is whole."""
    Path("out.onnx").write_bytes(old)
    ready, reached = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        _stop_at(moment, reached)
        os._exit(_work(saves=moment == "half of a checkpoint"))
    os.close(reached)
    seen = os.read(ready, 1)
    os.kill(child, SIGNALS[name])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(ready)
    return {
        "moment": moment, "signal": name, "reached": seen == b"x", "status": status,
        "files": sorted(os.listdir()), "old": Path("out.onnx").read_bytes() == old,
    }  # fmt: skip


def main() -> None:
    """Run every case, and then the command to its end."""
    os.chdir(sys.argv[1])
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    _work(saves=False)  # imports what the children need
    found = [case(moment, name, b"old") for moment, name in CASES]
    status = _work(saves=False)
    print(json.dumps({"cases": found, "status": status, "files": sorted(os.listdir())}))


if __name__ == "__main__":
    main()
