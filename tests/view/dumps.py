"""Dumps for the tests of the page: a real one, hostile ones, and a long one."""

import atexit
import json
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import qatc
from qatc.view import Dump, Histogram, Measured, Step, read_folder
from qatc.view.dump import in_order
from tests.lowering.networks import data, everything

HOSTILE = "</script><img src=x onerror=alert(1)>"


@cache
def real_folder() -> Path:
    """Return a dump folder of a network with every kind of op; not to be written to."""
    folder = Path(mkdtemp(prefix="dumps"))
    atexit.register(rmtree, folder)
    qatc.prepare(everything(), data(), dump_dir=folder)
    return folder


@cache
def real() -> Dump:
    return read_folder(real_folder())


def node(name: str, *inputs: str, kind: str = "ReLU", **more: Any) -> dict[str, Any]:
    read = ", ".join(f"%{i}" for i in inputs)
    text = f"%{name} = {kind}({read}) : f32[N,8]  # {more.get('path', name)}"
    return {"name": name, "op": "call_module", "kind": kind, "inputs": list(inputs), "text": text, **more}


def dump_of(*graphs: list[dict[str, Any]], title: str = "Net", measured: dict[str, Measured] | None = None) -> Dump:
    """Return a dump of a trace and of passes called pass-1, pass-2, ..."""
    names = ["trace", *(f"pass-{i}" for i in range(1, len(graphs)))]
    pairs = enumerate(zip(names, graphs, strict=True))
    steps = tuple(Step(i, name, seconds=0.001, nodes=in_order(graph)) for i, (name, graph) in pairs)
    return Dump(title, steps, measured=measured or {})


def hostile() -> Dump:
    """Return a dump whose every text, a node's name too, would be markup or mischief where it is taken for more."""
    names = [HOSTILE, "constructor", "__proto__", "toString", "a\nb", "$&", "${style}"]
    texts = {"kind": HOSTILE, "path": HOSTILE, "file": HOSTILE, "why_float": HOSTILE}
    nodes = [node(name, *names[max(0, i - 1) : i], **texts) for i, name in enumerate(names)]
    return dump_of(nodes, nodes[1:], title=HOSTILE, measured={HOSTILE: Measured(Histogram(0, 1, (1,), HOSTILE))})


def long(count: int = 5000) -> Dump:
    """Return residual blocks of seven nodes, of which a pass fuses five and another gives each a quantizer."""
    trace, fused, quantized = [node("x")], [node("x")], [node("x")]
    for block in range(count // 7):
        last, parts = trace[-1]["name"], ["conv1", "bn1", "relu1", "conv2", "bn2", "add", "relu2"]
        names = [f"b{block}_{part}" for part in parts]
        trace += [node(name, *([last] if i == 0 else names[i - 1 : i])) for i, name in enumerate(names)]
        trace[-2] = node(names[5], names[4], last)
        conv1, conv2, add = node(names[0], last, kind="Fused"), node(names[3], names[0]), node(names[6], names[3], last)
        fused += [conv1, conv2, add]
        quantized += [conv1, conv2, add, node(f"{names[6]}_q", names[6], kind="Tracked", quant="u8")]
    return dump_of(trace, fused, quantized)


def written(folder: Path, **files: Any) -> Path:
    """Write a folder of files, each by its name without `.json`: a text as it is, else as JSON."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder
