"""Prints a model's graph after the passes up to one of them, or what that one changed.

A defect report is then one command that anyone can run.
"""

import argparse
import difflib
import sys
from collections.abc import Sequence

import torch

from qatc.config import PRESETS, config_of
from qatc.errors import QatcError
from qatc.passes import qat_pipeline
from qatc.pipeline import PassEvent
from qatc.printer import diff, format_graph
from qatc.targets import TARGETS, target_of
from qatc.trace import trace
from tools.models import UnknownModel, default_shape, model_named

_EXAMPLE = """\
examples:
  tools/opt lenet --until dedup-modules --diff     what the pass changed
  tools/opt resnet18 --target tensorrt             the graph as it trains
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
    parser.add_argument(
        "model", metavar="MODEL", help="lenet, resnet-digits, a model of torchvision, or package.module:factory"
    )
    parser.add_argument("--until", metavar="PASS", help="the last pass to run, or `trace` for none (default: all)")
    parser.add_argument("--diff", action="store_true", help="print the lines that this pass changed instead")
    parser.add_argument("--target", default="onnxruntime", metavar="T", help=f"one of {', '.join(TARGETS)}")
    parser.add_argument("--config", default="w8a8", metavar="C", help=f"a .toml file, or one of {', '.join(PRESETS)}")
    parser.add_argument(
        "--shape", type=_shape, metavar="N,C,H,W", help="the shape of the input (default: that of the model's images)"
    )
    return parser


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write it as 1,3,64,64")
    return sizes


def text_after(args: argparse.Namespace) -> str:
    """Return the dump, or the difference, that the arguments ask for."""
    pipeline = qat_pipeline(target_of(args.target), config_of(args.config))
    names = ["trace", *(step.name for step in pipeline)]
    until = args.until or names[-1]
    if until not in names:
        raise BadRequest(_no_pass(until, names, args.config))
    model = model_named(args.model).eval()
    gm = trace(model, (torch.zeros(args.shape or default_shape(args.model)),))
    dumps = [format_graph(gm)]

    def keep(event: PassEvent) -> None:
        dumps.append(format_graph(event.gm))

    if until != "trace":
        pipeline.run(gm, (keep,), until=until)
    if not args.diff:
        return dumps[-1]
    if len(dumps) == 1:
        return dumps[0]
    return diff(dumps[-2], dumps[-1]) or f"{until} changed nothing\n"


def _no_pass(wanted: str, names: list[str], config: str) -> str:
    target = target_of("onnxruntime")
    elsewhere = [
        name for name, other in PRESETS.items() if wanted in {step.name for step in qat_pipeline(target, other)}
    ]
    if elsewhere:
        return f"pass {wanted!r} is not run with --config {config}, but with: {', '.join(elsewhere)}"
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.4)
    hint = f"; the nearest: {near[0]}" if near else ""
    return f"no pass {wanted!r}{hint}; passes: {', '.join(names)}"


if __name__ == "__main__":
    sys.exit(main())
