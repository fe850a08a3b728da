"""One call checks that a graph is the model: trained for a step, and evaluated at other inputs and other batches."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from qatc.arguments import Arguments, arguments_of, batch_size
from qatc.float_difference import float_difference
from qatc.nested import map_tensors, tensors
from qatc.prepared import PreparedModel
from qatc.trace import trace
from tests.check_pass import close
from tests.models import randomise

BATCHES = (1, 2, 3, 5)


def check_trace(model: nn.Module, example: Any, *others: Any, batches: Sequence[int] = BATCHES) -> PreparedModel:
    """Trace the model and return its graph, which must be the model on the example and on the others.

    Outputs are compared in eval mode and for each of these batch sizes; outputs, gradients and statistics in training.
    """
    model = randomise(model)
    gm = trace(model, example)
    check_same(model, gm, example, *others, batches=batches)
    return gm


def check_same(model: nn.Module, gm: fx.GraphModule, *inputs: Any, batches: Sequence[int] = BATCHES) -> None:
    """Check that the graph is the model on these inputs."""
    gm.graph.lint()
    for given in (arguments_of(value, model.forward) for value in inputs):
        found = float_difference(model, gm, given.args, given.kwargs)
        assert found.same, "\n".join(map(str, found.deviations))
        assert not found.skipped
        for batch in batches:
            check_outputs(model, gm, of_batch(given, batch))


def check_outputs(model: nn.Module, gm: nn.Module, given: Any) -> None:
    """Check that both give the same tensors at the same places in eval mode."""
    given = given if isinstance(given, Arguments) else arguments_of(given, model.forward)
    training = [m.training for m in model.modules()]
    expected, actual = (tensors(_run(m, given)) for m in (model, gm))
    for module, flag in zip(model.modules(), training, strict=True):
        module.training = flag
    assert [name for name, _ in actual] == [name for name, _ in expected]
    for (name, ours), (_, theirs) in zip(actual, expected, strict=True):
        close(ours, theirs, name)


def _run(model: nn.Module, given: Arguments) -> Any:
    with torch.no_grad():
        fresh = map_tensors(Tensor.clone, given)
        return model.eval()(*fresh.args, **fresh.kwargs)


def of_batch(given: Any, batch: int) -> Any:
    """Return the value with as many rows in every tensor that has the batch in dimension 0."""
    size = batch_size(given)

    def rows(tensor: Tensor) -> Tensor:
        in_batch = tensor.dim() > 0 and tensor.shape[0] == size
        return tensor[torch.arange(batch) % tensor.shape[0]] if in_batch else tensor

    return map_tensors(rows, given)


def place(kind: Callable[..., Any], text: str) -> str:
    """Return `file.py:12` of the one line of this class or function that holds the text."""
    lines, first = inspect.getsourcelines(kind)
    (offset,) = (i for i, line in enumerate(lines) if text in line)
    return f"{Path(inspect.getfile(kind)).name}:{first + offset}"


def targets(gm: fx.GraphModule, op: str = "") -> list[str]:
    """Return what the graph's nodes call or read, by name."""
    return [n.target if isinstance(n.target, str) else n.target.__name__ for n in gm.graph.nodes if op in ("", n.op)]
