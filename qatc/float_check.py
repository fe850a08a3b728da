"""The check behind `prepare(verify=True)`: is it still the same function, and if not, which pass parted them."""

import warnings
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from qatc.arguments import Arguments
from qatc.errors import FloatCheckError, QatcWarning
from qatc.float_difference import FloatDifference, float_difference
from qatc.inspection.guilty_pass import Parting, first_parting
from qatc.ir import source_of
from qatc.pipeline import Observer, PassEvent, Pipeline
from qatc.prepared import PreparedModel
from qatc.trace import trace

_NAMED_NODES = 3
_PASS = "this is a defect of the pass: please report it with the text dumps that dump_dir writes"
_TRACING = "put what the model does only in train mode into a module of its own; if there is none, please report this"


def check_float(
    model: nn.Module,
    prepared: PreparedModel,
    pipeline: Pipeline,
    example_inputs: Any,
    given: Arguments,
    *,
    train: bool = True,
) -> None:
    """Raise a `FloatCheckError` that names the first pass after which outputs or gradients are not the model's.

    `given` is what `example_inputs` is to the model; `train` says whether to compare a step of training too. The passes
    run again, on a graph traced anew, only if the whole of them changed something.
    """
    difference = float_difference(model, prepared, given.args, given.kwargs, train=train)
    if difference.same:
        return
    found: Parting | None = None
    if float_difference(model, model, given.args, given.kwargs, train=train).same:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", QatcWarning)  # whoever prepared the model has seen them
            gm = trace(model, example_inputs)

        def wrong(event: PassEvent) -> str:
            return described(float_difference(model, event.gm, given.args, given.kwargs, train=train))

        def run(observer: Observer) -> None:
            pipeline.begin(gm, (observer,), "tracing")
            pipeline.run(gm, (observer,))

        found = first_parting(run, wrong)
    if found is None:
        raise FloatCheckError(
            f"the model gives other results each time that it runs:\n  {described(difference)}",
            remedy="make it deterministic, but for torch's own random draws, or leave verify=True out",
        )
    raise FloatCheckError(
        f"after {f'pass {found.step!r}' if found.index else found.step} the model is not the one given:\n  {found.why}",
        where=_places(found.nodes),
        remedy=_PASS if found.index else _TRACING,
    )


def described(difference: FloatDifference) -> str:
    """Return what is beyond the tolerance, the first of it in words; an empty text if nothing is."""
    if difference.same:
        return ""
    first, *rest = difference.deviations
    return f"{first}{f' (and {len(rest)} more)' if rest else ''}"


def _places(nodes: Sequence[fx.Node]) -> str:
    named = [f"%{node.name} {source_of(node)}".strip() for node in nodes]
    more = len(named) - _NAMED_NODES
    return ", ".join(named[:_NAMED_NODES]) + (f" and {more} more that the pass changed" if more > 0 else "")
