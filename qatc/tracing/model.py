"""The whole of tracing with inputs: how often the model runs, what of each run is kept, and what is said about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from qatc.arguments import Arguments
from qatc.copies import copied
from qatc.errors import QatcError, TraceError
from qatc.nested import tensors
from qatc.tracing import training
from qatc.tracing.capture import Capture
from qatc.tracing.frames import place_of
from qatc.tracing.opaque import Opaque
from qatc.tracing.parameters import check_reached, unreached
from qatc.tracing.run import Open, batch_is_fixed, run
from qatc.tracing.sizes import NothingOpenError, TooManyDecisionsError

# A graph with more nodes for sizes than others, and than these, is better off with the example's sizes.
_MOST_SIZE_NODES = 40


class Traced(NamedTuple):
    """A graph, the tensors that it reads and the model has not, and what is to be said about it."""

    graph: fx.Graph
    constants: dict[str, Tensor]
    notes: list[str]
    warnings: list[str]
    opaque: dict[str, Opaque]


def traced(root: nn.Module, model: nn.Module, inputs: Arguments) -> Traced:
    """Trace `root`, a copy of the model. Raises `TraceError`, with file and line, where its Python needs values.

    A model with `batch_is_fixed = True` takes batches of the example's size alone: no size is open then.
    """
    opaque: dict[str, Opaque] = {}
    first = _run(root, model, inputs, opaque)
    best, notes = first, list(first.sizes.specialised())
    wants_open = first.reads_sizes or first.sizes.fixed_batch()
    if wants_open and not opaque and _open_sizes(root) is Open.BATCH:
        best, notes = _with_all_sizes(root, inputs, first)
    lost = unreached(root, best.graph)
    if lost and (best.anonymous or best.attributes):
        with _without_caches(root):
            again = _retried(root, inputs, opaque)
        if again is not None and len(unreached(root, again.graph)) < len(lost):
            best, lost = again, unreached(root, again.graph)
            notes = list(best.sizes.specialised())
    notes += [f"{place} reads the value of a constant: it is part of the graph" for place in best.values_read]
    notes += best.given
    warnings = best.notes + list(best.checkpointed)
    if place := best.sizes.fixed_batch():
        warnings.append(f"the batch is fixed to that of the example inputs, at {place}")
    if lost and (line := check_reached(model, lost, inputs, best.anonymous, best.attributes)):
        warnings.append(line)
    if training.acts_differently(root):
        warnings += _follow_training(root, inputs, best, opaque)
    constants = {path: best.constants[path].detach() for path in best.anonymous}
    return Traced(best.graph, constants, list(dict.fromkeys(notes)), list(dict.fromkeys(warnings)), opaque)


def _run(root: nn.Module, model: nn.Module, inputs: Arguments, opaque: dict[str, Opaque]) -> Capture:
    try:
        return run(root, inputs, opaque, _open_sizes(root))
    except QatcError:
        raise
    except Exception as error:
        raise _explained(error, model, inputs) from error


def _open_sizes(root: nn.Module) -> Open:
    return Open.NONE if batch_is_fixed(root) else Open.BATCH


def _with_all_sizes(root: nn.Module, inputs: Arguments, first: Capture) -> tuple[Capture, list[str]]:
    """Return the capture that keeps all sizes open, or the first one where that is not worth it; and what to say."""
    opaque: dict[str, Opaque] = {}
    decided = list(first.sizes.specialised())
    names = " and ".join(dict.fromkeys(name.partition(".")[0] for name in first.sizes.names.values()))
    fixed = f"sizes of {names or 'the inputs'} other than the batch are fixed to those of the example inputs: "
    try:
        whole = run(root, inputs, opaque, Open.ALL)
    except NothingOpenError as error:
        return first, [*error.sizes.specialised(), *decided]
    except TooManyDecisionsError:
        return first, [*decided, fixed + "the model decides on them again and again"]
    except Exception as error:
        place = place_of(error).partition(": ")[0]
        return first, [*decided, fixed + f"{type(error).__name__} at {place} where they are open"]
    sizes = sum(node.op != "placeholder" and node not in whole.fakes for node in whole.graph.nodes)
    if opaque or (whole.sizes.fixed_batch() and not first.sizes.fixed_batch()):
        return first, [*decided, fixed + "the model cannot be traced where they are open"]
    if sizes > max(_MOST_SIZE_NODES, len(whole.fakes)):
        return first, [*decided, fixed + f"the model computes {sizes} sizes from them"]
    return whole, list(whole.sizes.specialised())


def _retried(root: nn.Module, inputs: Arguments, opaque: dict[str, Opaque]) -> Capture | None:
    try:
        return run(root, inputs, opaque, _open_sizes(root))
    except Exception:  # what was taken away was no cache: the first graph stands, and its lost parameters are judged
        return None


@contextmanager
def _without_caches(root: nn.Module) -> Iterator[None]:
    """Take away tensors that earlier runs may have kept on the model: in dicts, and as attributes that may be None."""
    emptied = [
        (module, name, value)
        for module in root.modules()
        for name, value in module.__dict__.items()
        if (isinstance(value, Tensor) or (type(value) is dict and not name.startswith("_"))) and tensors(value)
    ]
    for module, name, value in emptied:
        module.__dict__[name] = {} if isinstance(value, dict) else None
    try:
        yield
    finally:
        for module, name, value in emptied:
            module.__dict__[name] = value


def _follow_training(root: nn.Module, inputs: Arguments, best: Capture, opaque: dict[str, Opaque]) -> list[str]:
    try:
        trained = run(root, inputs, dict(opaque), Open.NONE, training=True)
    except Exception as error:
        place = place_of(error).partition(": ")[0]
        return [f"the model in training mode cannot be traced (at {place}): training follows its eval mode"]
    return [*training.follow(best.graph, trained.graph), *trained.checkpointed]


def _explained(error: Exception, model: nn.Module, inputs: Arguments) -> TraceError:
    name, place, first = type(model).__name__, place_of(error), (str(error).strip() or "no message").splitlines()[0]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copied(model).eval()(*inputs.args, **inputs.kwargs)
    except Exception as own:
        what = f"{type(own).__name__}: {(str(own).strip() or 'no message').splitlines()[0]}"
        return TraceError(
            f"{name} does not run on the example inputs: {what}",
            where=place_of(own),
            remedy="check shapes, types and names in example_inputs: a tensor, a tuple of positional arguments, or a "
            "dict of keyword arguments",
        )
    if isinstance(error, (DataDependentOutputException, GuardOnDataDependentSymNode)):
        return TraceError(
            f"{name} cannot be traced: its Python decides on the values of a tensor",
            where=place,
            remedy="compute with torch.where instead of `if`, or move this part into a submodule, which then stays in "
            "float",
        )
    return TraceError(
        f"{name} cannot be traced: {type(error).__name__}: {first}",
        where=place,
        remedy="move this part into a submodule of its own, which then stays in float",
    )
