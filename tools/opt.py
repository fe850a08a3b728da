"""Prints a model's graph after the passes up to one of them, or what that one changed.

A defect report is then one command that anyone can run.
"""

import argparse
import difflib
import signal
import sys
from collections.abc import Sequence

from qatc.config import PRESETS, config_of
from qatc.errors import QatcError
from qatc.inspection import dumps_of
from qatc.inspection.options import add_pass_options, printers
from qatc.passes import qat_pipeline
from qatc.pipeline import Observer, PassEvent
from qatc.printer import diff, format_graph
from qatc.targets import target_of
from tools.model_options import BEGUN, add_model_options, pipeline_of, subject_of
from tools.models import UnknownModel

_EXAMPLE = """\
examples:
  tools/opt lenet --until dedup-modules --diff     what the pass changed
  tools/opt resnet18 --target tensorrt             the graph as it trains
  tools/opt lenet --print-after-change --diff      what each pass changed; --lower: those of lowering
  tools/opt my.models:make_net --shape 1,3,96,96   a model of your own; my/models.py is looked up from here
"""


class BadRequest(Exception):
    """Something asked for does not exist; the message says what does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    args = _parser().parse_args(argv)
    try:
        print(text_after(args), end="")
    except (BadRequest, UnknownModel, QatcError) as error:
        print(f"opt: error: {'; '.join(line.strip() for line in str(error).splitlines())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "tools/opt", description=(__doc__ or "").splitlines()[0], epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_model_options(parser)
    parser.add_argument("--until", metavar="PASS", help="the last pass to run, or `trace` for none (default: all)")
    add_pass_options(parser)
    return parser


def text_after(args: argparse.Namespace) -> str:
    """Return the dump, or the difference, that the arguments ask for; empty where passes were to be printed."""
    names = [BEGUN[args.lower], *(step.name for step in pipeline_of(args))]
    until = args.until or names[-1]
    if until not in names:
        raise BadRequest(_no_pass(until, names, args))
    asked = printers(args) if args.print_after_change or args.print_after else ()
    subject = subject_of(args)
    dumps: list[str] = []

    def keep(event: PassEvent) -> None:
        dumps.append(format_graph(event.gm))

    observers: tuple[Observer, ...] = (
        keep,
        *asked,
        *dumps_of(args.dump_dir, target_of(args.target), config_of(args.config)),
    )
    subject.pipeline.begin(subject.gm, observers, subject.name)
    if until != subject.name:
        subject.pipeline.run(subject.gm, observers, until=until)
    if asked:
        return ""
    if not args.diff or len(dumps) == 1:
        return dumps[-1]
    return diff(dumps[-2], dumps[-1]) or f"{until} changed nothing\n"


def _no_pass(wanted: str, names: list[str], args: argparse.Namespace) -> str:
    target = target_of("onnxruntime")
    elsewhere = [
        name for name, other in PRESETS.items() if wanted in {step.name for step in qat_pipeline(target, other)}
    ]
    if elsewhere and not args.lower:
        return f"pass {wanted!r} is not run with --config {args.config}, but with: {', '.join(elsewhere)}"
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.4)
    hint = f"; the nearest: {near[0]}" if near else ""
    return f"no pass {wanted!r}{hint}; passes: {', '.join(names)}"


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it without a complaint
    sys.exit(main())
