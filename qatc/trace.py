"""From the model as written to a graph: a `GraphModule` with shapes, and file and line of every op.

The only file that knows which way the graph is made: with inputs by running the model on fake tensors, without by
`torch.fx.Tracer`.
"""

import logging
import warnings
from typing import Any

from torch import fx, nn

from qatc.arguments import arguments_of
from qatc.collection import postponed_collection
from qatc.copies import copied
from qatc.errors import QatcWarning, TraceError
from qatc.ir import set_notes, set_why_float
from qatc.prepared import PreparedModel
from qatc.tracing.batch_norms import restore_batch_norms
from qatc.tracing.constants import fold_constants, follow_device, keep_out_of_state
from qatc.tracing.frames import place_of
from qatc.tracing.model import Traced, traced
from qatc.tracing.symbolic import SymbolicTracer
from qatc.tracing.types import record_types

__all__ = ["record_types", "trace"]

log = logging.getLogger("qatc")


@postponed_collection()
def trace(model: nn.Module, example_inputs: Any = None, *, strict: bool = False) -> PreparedModel:
    """Return the graph of a copy of the model, with the tensors' types if there are example inputs.

    Args:
        model: the model; it is not changed.
        example_inputs: in any form that `qatc.arguments.arguments_of` takes, of any batch size.
        strict: whether a submodule that cannot be traced is an error, instead of a float leaf and a warning.

    Raises:
        TraceError: with file and line, where the model's Python depends on the values of tensors.

    """
    root = copied(model)
    training = {name: module.training for name, module in model.named_modules()}
    if example_inputs is None:
        found = _without_inputs(root.eval(), model)
    else:
        found = traced(root, model, arguments_of(example_inputs, model.forward))
    _tell(found, strict)
    for name, constant in found.constants.items():
        root.register_buffer(name, constant, persistent=False)
    restore_batch_norms(root, found.graph)
    make_room(root, found.graph)
    gm = PreparedModel(root, found.graph, type(model).__name__)
    keep_out_of_state(root, gm)
    for name, module in gm.named_modules():  # a BatchNorm that the user froze stays in eval mode
        module.training = training.get(name, model.training)
    if example_inputs is not None:
        fold_constants(gm)
        follow_device(gm.graph)
        gm.recompile()
    set_notes(gm, (*map(str, found.opaque.values()), *found.warnings, *found.notes))
    return gm


def _without_inputs(root: nn.Module, model: nn.Module) -> Traced:
    try:
        return Traced(SymbolicTracer().trace(root), {}, [], [], {})
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TraceError(
            f"{type(model).__name__} cannot be traced without example inputs: {type(error).__name__}: {first}",
            where=place_of(error),
            remedy="give example_inputs: the model's Python then runs on their shapes",
        ) from error


def _tell(found: Traced, strict: bool) -> None:
    """Warn of what stays in float or differs from the model, and mark the nodes; refuse it if `strict`."""
    if strict and found.opaque:
        lines = [str(opaque) for opaque in found.opaque.values()]
        raise TraceError(
            "strict: " + "; ".join(lines), remedy="rewrite this part, or leave it in float with strict=False"
        )
    for node in found.graph.nodes:
        if node.op == "call_module" and node.target in found.opaque:
            opaque = found.opaque[node.target]
            set_why_float(node, str(opaque).partition(") ")[2])
    for line in found.notes:
        log.info(line)
    for line in (*map(str, found.opaque.values()), *found.warnings):
        warnings.warn(line, QatcWarning, stacklevel=5)  # the caller of qatc.prepare


def make_room(root: nn.Module, graph: fx.Graph) -> None:
    """Rename members of the model that have the name of one that every graph module has (`graph`, `report`)."""
    taken = set(dir(PreparedModel)) - set(dir(nn.Module))
    kinds: tuple[dict[str, Any], ...] = (root._modules, root._parameters, root._buffers)
    for members in kinds:
        for name in taken & set(members):
            members[f"{name}_"] = members.pop(name)
            for node in graph.nodes:
                first, dot, rest = str(node.target).partition(".")
                if node.op in ("call_module", "get_attr") and first == name:
                    node.target = f"{name}_{dot}{rest}"
            log.warning("the model's member %r is called %r from here on: a graph module has its own", name, f"{name}_")
