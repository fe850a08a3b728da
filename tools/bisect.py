"""Finds the pass that changes what a model computes.

Ever longer prefixes of the passes are run, and the graph behind each is compared with the model: its outputs in eval
mode, and outputs, gradients and statistics of a training step, all quantizers off (`qatc.float_difference`). With
--lower it is the prepared model with its quantizers on: its outputs behind each pass, and at the end every integer code
of the file.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from tqdm import tqdm

from qatc import ir
from qatc.errors import QatcError
from qatc.float_check import described
from qatc.float_difference import EVAL_TOLERANCE, float_difference
from qatc.inspection import Parting, first_parting
from qatc.lowering import lowered_proto, verify
from qatc.lowering.flatten_inputs import input_types
from qatc.lowering.lowered_modules import LoweredLayer, LoweredQuantizer
from qatc.lowering.verify import flat
from qatc.nested import tensors
from qatc.pipeline import Observer, PassEvent
from qatc.quantizers import Quantizer
from tools.model_options import Subject, add_model_options, subject_of
from tools.models import UnknownModel

_EXAMPLE = """\
examples:
  tools/bisect resnet18                              which pass of prepare parts the graph from the model
  tools/bisect resnet18 --target tensorrt --lower    which of lowering, and whether the file is right
  tools/bisect my.models:make_net --shape 4,3,96,96  a model of your own; my/models.py is looked up from here

exit codes: 0 they are the same to the end; 1 a pass parts them, it is named; 2 bad input
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        "tools/bisect", description=__doc__, epilog=_EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_model_options(parser)
    args = parser.parse_args(argv)
    try:
        subject = subject_of(args, seeded=True)
        with tqdm(total=len(subject.steps), unit="pass", disable=None) as bar:
            found = (lowering_parting if args.lower else parting)(subject, lambda: bar.update())
    except (UnknownModel, QatcError) as error:
        print(f"bisect: error: {'; '.join(line.strip() for line in str(error).splitlines())}", file=sys.stderr)
        return 2
    print("\n".join(_told(subject, found)))
    return 0 if found is None else 1


def parting(subject: Subject, tell: Callable[[], object] = lambda: None) -> Parting | None:
    """Return the first pass of the subject's pipeline behind which its graph is not its model; None if there is none.

    `tell` is called behind each pass.
    """

    def run(observer: Observer) -> None:
        subject.pipeline.begin(subject.gm, (observer,), subject.name)
        subject.pipeline.run(subject.gm, (observer,))

    def wrong(event: PassEvent) -> str:
        tell()
        return described(float_difference(subject.model, event.gm, (subject.x,)))

    return first_parting(run, wrong)


def lowering_parting(subject: Subject, tell: Callable[[], object] = lambda: None) -> Parting | None:
    """Return the first pass of lowering behind which the graph, or at last the file, is not the prepared model."""
    expected = _outputs(subject.gm, subject.x)

    def wrong(event: PassEvent) -> str:
        tell()
        if any(isinstance(module, LoweredLayer | LoweredQuantizer) for module in event.gm.modules()):
            return ""  # computes nothing by itself; the file shows what it is
        return _difference(_outputs(event.gm, subject.x), expected)

    lowered: list[Any] = []
    found = first_parting(lambda observer: lowered.append(lowered_proto(subject.gm, observers=(observer,))), wrong)
    if found is not None:
        return found
    name = next(iter(input_types(flat(subject.gm))))
    verification = verify(subject.gm, lowered[0], {name: subject.x.numpy()})
    return None if verification.passed else Parting(len(subject.steps), "the file", str(verification))


class _Clipped(fx.Interpreter):
    """Runs a graph in which quantizers limit their codes in place of a clip."""

    def run_node(self, n: fx.Node) -> Any:
        limits, quantizer = ir.clipped_codes(n), ir.module_of(n, Quantizer)
        if limits is None or quantizer is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return quantizer(args[0].clamp(*limits), *args[1:], **kwargs)


def _outputs(gm: fx.GraphModule, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [output for _, output in tensors(_Clipped(gm).run(x.clone()))]


def _difference(found: list[Tensor], expected: list[Tensor]) -> str:
    if len(found) != len(expected):
        return f"it has {len(found)} outputs, the prepared model {len(expected)}"
    for ours, theirs in zip(found, expected, strict=True):
        if ours.shape != theirs.shape:
            return f"an output is {list(ours.shape)}, the prepared model's {list(theirs.shape)}"
        spread = float(theirs.max() - theirs.min())
        share = float((ours - theirs).abs().max()) / spread if spread else float(not torch.equal(ours, theirs))
        if not share <= EVAL_TOLERANCE:
            return f"an output is off by {share:.2g} of its spread, {EVAL_TOLERANCE:.0e} allowed"
    return ""


def _told(subject: Subject, found: Parting | None) -> list[str]:
    if found is None:
        return [f"the same from {subject.name} to {subject.steps[-1]}: {len(subject.steps) - 1} passes"]
    lines = [f"they part at {found.index} of {len(subject.steps) - 1}: {found.step}", f"  {found.why}"]
    return [*lines, "it changed:", found.changed.rstrip()] if found.changed else lines


if __name__ == "__main__":
    sys.exit(main())
