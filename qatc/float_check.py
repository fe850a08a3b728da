"""The check behind `prepare(verify=True)`: is it still the same function, and if not, which pass parted them."""

import warnings
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from qatc.arguments import Arguments
from qatc.errors import FloatCheckError, QatcWarning
from qatc.float_difference import FloatDifference, float_difference
from qatc.ir import source_of
from qatc.pipeline import Pipeline
from qatc.prepared import PreparedModel
from qatc.printer import format_node
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
    search = _Search(model, given, train)
    if float_difference(model, model, given.args, given.kwargs, train=train).same:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", QatcWarning)  # whoever prepared the model has seen them
            gm = trace(model, example_inputs)
        search.look(gm, "tracing")
        pipeline.run(gm, (lambda event: search.look(event.gm, f"pass {event.name!r}"),))
    raise search.found or FloatCheckError(
        f"the model gives other results each time that it runs:\n  {_described(difference)}",
        remedy="make it deterministic, but for torch's own random draws, or leave verify=True out",
    )


@dataclass
class _Search:
    """Compares the graph with the model behind each pass, until they part."""

    model: nn.Module
    given: Arguments
    train: bool = True
    found: FloatCheckError | None = None
    lines: set[str] = field(default_factory=set)

    def look(self, gm: fx.GraphModule, step: str) -> None:
        if self.found is not None:
            return
        difference = float_difference(self.model, gm, self.given.args, self.given.kwargs, train=self.train)
        nodes = [node for node in gm.graph.nodes if format_node(node) not in self.lines]
        changed = _places(nodes) if self.lines else ""
        self.lines = {format_node(node) for node in gm.graph.nodes}
        if not difference.same:
            self.found = FloatCheckError(
                f"after {step} the model is not the one given:\n  {_described(difference)}",
                where=changed,
                remedy=_TRACING if step == "tracing" else _PASS,
            )


def _described(difference: FloatDifference) -> str:
    first, *rest = difference.deviations
    return f"{first}{f' (and {len(rest)} more)' if rest else ''}"


def _places(nodes: list[fx.Node]) -> str:
    named = [f"%{node.name} {source_of(node)}".strip() for node in nodes if node.op != "output"]
    more = len(named) - _NAMED_NODES
    return ", ".join(named[:_NAMED_NODES]) + (f" and {more} more that the pass changed" if more > 0 else "")
