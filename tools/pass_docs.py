"""Writes docs/passes.md from the passes themselves: what each is, its options and invariants, and an example.

--check says whether the page is what it would write, and exits with 1 if it is not.
"""

import argparse
import copy
import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path

import torch
from torch import nn

import qatc
from qatc.invariants import INVARIANTS, Invariant
from qatc.lowering.lower_modules import lowering_pipeline
from qatc.passes import qat_pipeline
from qatc.pipeline import Pass, PassEvent, Pipeline
from qatc.prepared import PreparedModel
from qatc.printer import diff, format_graph
from qatc.targets import target_of
from qatc.trace import trace
from tools.pass_examples import EXAMPLES, Example

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/passes.md"
_HEAD = """\
# The passes

Written by `tools/pass_docs` from the passes themselves. Those of `qatc.prepare` come first, then those of lowering, in
the order in which they run. A pass *requires* what must hold before it, *ensures* what holds from then on, and *breaks*
what may no longer hold; the pipeline refuses an order that does not fit, and checks the graph behind each.
Below each is what it does to a small model: lines with `-` are gone, those with `+` are new.

`tools/opt MODEL --until PASS --diff` shows it on a model of yours, [inspection.md](inspection.md) has the other ways.

## Invariants
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        "tools/pass_docs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    args = parser.parse_args(argv)
    text = page()
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is out of date; write it with tools/pass_docs", file=sys.stderr)
    return 1


def page() -> str:
    """Return the page."""
    table = [f"| `{invariant}` | {invariant.meaning} |" for invariant in INVARIANTS]
    parts = [f"{_HEAD}\n| | |\n|---|---|\n" + "\n".join(table) + "\n"]
    for lower, title in ((False, "Passes of prepare"), (True, "Passes of lowering")):
        parts.append(f"\n## {title}\n")
        parts += [section(kind, e) for kind, e in EXAMPLES.items() if e.lower == lower]
    return "".join(parts)


def section(kind: type[Pass], example: Example) -> str:
    """Return what there is to say of one pass."""
    path = Path(inspect.getfile(kind)).resolve().relative_to(ROOT)
    lines = [f"\n### {kind.name}", "", f"[{path}](../{path})", "", *_paragraphs(inspect.getdoc(kind) or "")]
    options = [f"- option `{option.name}`: `{_type(option)}`{_default(option)}" for option in fields(kind)]
    for name in ("requires", "ensures", "breaks"):
        invariants: tuple[Invariant, ...] = getattr(kind, name)
        options += [f"- {name} {', '.join(f'`{i}`' for i in invariants)}"] if invariants else []
    lines += [*options, ""] if options else []
    return "\n".join([*lines, "```diff", changes(kind, example).rstrip(), "```", ""])


def changes(kind: type[Pass], example: Example) -> str:
    """Return what the pass does to its example, the lines that stay included."""
    before, after = graphs(kind, example)
    return diff(before, after, context=len(before))


def graphs(kind: type[Pass], example: Example) -> tuple[str, str]:
    """Return the text of the example in front of the pass and behind it; a `LookupError` if it changes nothing."""
    gm, pipeline = begun(example)
    texts = [format_graph(gm, locations=False)]

    def keep(event: PassEvent) -> None:
        texts.append(format_graph(event.gm, locations=False))

    pipeline.run(gm, (keep,), until=kind.name)
    if texts[-1] == texts[-2]:
        raise LookupError(f"the example of {kind.name} shows nothing")
    return texts[-2], texts[-1]


def begun(example: Example) -> tuple[PreparedModel, Pipeline]:
    """Return the example's graph as its passes begin with it, and them."""
    target = target_of(example.target)
    torch.manual_seed(0)
    model = _distinct(example.model())
    if not example.lower:
        return trace(model, example.inputs), qat_pipeline(target, example.config)
    gm = qatc.prepare(model, example.inputs if example.types else None, target, example.config)
    qatc.calibrate(gm, [example.inputs], progress=False)
    return copy.deepcopy(gm).eval(), lowering_pipeline(target)


def _distinct(model: nn.Module) -> nn.Module:
    """Give BatchNorms statistics that are not the neutral ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.fill_(0.5)
    return model.eval()


def _paragraphs(docstring: str) -> Iterator[str]:
    for paragraph in docstring.split("\n\n"):
        yield from (textwrap.fill(" ".join(paragraph.split()), 120, break_on_hyphens=False), "")


def _type(option: "Field[object]") -> str:
    return option.type if isinstance(option.type, str) else getattr(option.type, "__name__", str(option.type))


def _default(option: "Field[object]") -> str:
    return "" if option.default is MISSING else f", `{option.default!r}` if not given"


if __name__ == "__main__":
    sys.exit(main())
