"""One call checks all that must hold of a pass: what it changed, and everything that it must not change."""

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

import qatc
from qatc.float_difference import float_difference
from qatc.invariants import Invariant
from qatc.pipeline import Pass, check_invariants
from qatc.prepared import PreparedModel
from qatc.printer import diff, format_graph
from qatc.trace import record_types, trace
from tests.models import images, randomise

# Folding a BatchNorm reorders a few hundred float32 operations, each off by at most 2^-24 of its result.
TOLERANCE = 2e-5


def check_pass(
    pass_: Pass,
    model: nn.Module,
    expect: str,
    inputs: Tensor | Sequence[Tensor] | None = None,
    *,
    before: Sequence[Pass] = (),
    changed: bool | None = None,
) -> PreparedModel:
    """Run `pass_` on the traced model, after the passes in `before`, and return the graph.

    Checks that the text of the graph changes as `expect` says; that the pass reports whether it changed anything (give
    `changed` where the text does not show it); that a second run changes nothing; that tensor types are still right;
    that invariants hold; and that the float model's outputs, gradients, running statistics and state_dict keys remain.
    """
    inputs = images() if inputs is None else inputs
    inputs = [inputs] if isinstance(inputs, Tensor) else inputs
    model = randomise(model)
    gm = trace(model, inputs)
    established: set[Invariant] = set()
    for step in before:
        step.run(gm)
        established = (established - set(step.breaks)) | set(step.ensures)
    text = format_graph(gm, locations=False)
    check_invariants(gm, pass_.requires, "the passes before")

    reported = pass_.run(gm)
    result = format_graph(gm, locations=False)
    assert diff(text, result) == expect
    assert reported == (result != text if changed is None else changed)

    gm.graph.lint()
    check_invariants(gm, (established - set(pass_.breaks)) | set(pass_.ensures), pass_.name)
    with qatc.float_mode(gm):
        record_types(gm, inputs)
    assert format_graph(gm, locations=False) == result, "a tensor's type is not what the graph says"
    assert pass_.run(gm) is False
    assert format_graph(gm, locations=False) == result, "a second run changes the graph"

    check_same_function(model, gm, inputs)
    return gm


def check_same_function(
    model: nn.Module, rewritten: fx.GraphModule, inputs: Sequence[Tensor], tolerance: float = TOLERANCE
) -> None:
    """Check that the rewritten graph is the float model: by its state, evaluated, and trained for one step."""
    state = rewritten.state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(state[key], value, rtol=0, atol=0, msg=f"state_dict: {key}")
    found = float_difference(model, rewritten, inputs)
    assert found.same, "\n".join(map(str, found.deviations))
    assert found.eval <= tolerance
    assert found.dtype is not None, "not compared in training"


def evaluated(model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """Return the output in eval mode."""
    with torch.no_grad():
        result: Tensor = model.eval()(*(x.clone() for x in inputs))
    return result


def trained(model: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
    """Return the output in training mode, and leave gradients behind; dropout masks are seeded."""
    torch.manual_seed(0)
    model.train()
    result: Tensor = model(*(x.clone() for x in inputs))
    (result * images(*result.shape, seed=1)).sum().backward()
    return result.detach()


def close(actual: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Check that two tensors differ by no more than `tolerance` of the greatest magnitude."""
    assert actual.shape == expected.shape, what
    differs = actual != expected  # equal infinities do not
    error = float((actual.float() - expected.float())[differs].abs().max()) if differs.any() else 0.0
    finite = expected[torch.isfinite(expected)].float().abs()
    limit = tolerance * max(1.0, float(finite.max()) if finite.numel() else 0.0)
    assert error <= limit, f"{what}: off by {error:.3g}, {limit:.3g} allowed"
