"""The check that no parameter got lost: what trains in the model must be reached by the graph."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from qatc.arguments import Arguments
from qatc.copies import copied
from qatc.errors import TraceError
from qatc.nested import tensors


def unreached(root: nn.Module, graph: fx.Graph) -> list[str]:
    """Return the names of the parameters that the graph's result does not depend on."""
    live: set[str] = set()
    wanted = {node for node in graph.nodes if node.op == "output"}
    for node in reversed(graph.nodes):
        writes = not node.users and node.op in ("call_function", "call_method")  # dead ones are dropped already
        if node in wanted or writes:
            wanted |= set(node.all_input_nodes)
            live.add(str(node.target))
    # A tied parameter is reached by any of its names.
    reached = {id(p) for name, p in root.named_parameters(remove_duplicate=False) if _within(name, live)}
    return [name for name, p in root.named_parameters() if id(p) not in reached]


def _within(name: str, live: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:n]) in live for n in range(1, len(parts) + 1))


def check_reached(
    model: nn.Module, lost: list[str], inputs: Arguments, anonymous: list[str], attributes: list[str]
) -> str:
    """Raise a `TraceError` if one of these parameters trains in the model; return a line to warn of otherwise.

    It says which are used in a branch of training alone, or that the model's own run failed, so that nobody knows.

    `anonymous` are constants of the graph that are no member of the model: what an earlier run kept. `attributes` are
    those that are tensors of a module, but neither parameters nor buffers: such a run may have kept them, too.
    """
    kept = _kept(model) if anonymous or attributes else set()
    evaluated = _with_gradient(model, inputs, training=False)
    trained = _with_gradient(model, inputs, training=True)
    in_eval = sorted(set(lost) & (kept | (set() if isinstance(evaluated, Exception) else evaluated)))
    in_training = [] if in_eval or isinstance(trained, Exception) else sorted(set(lost) & trained)
    if in_eval or (in_training and anonymous):
        names = in_eval or in_training
        raise TraceError(
            f"{len(names)} parameters that the model trains are not in its graph: {', '.join(names[:5])}",
            remedy="a tensor computed from them is kept between calls, or passes through code that torch cannot see: "
            "clear such a cache before qatc.prepare (a model that never ran has none)",
        )
    if in_training:
        return f"{len(in_training)} parameters are used only in training and left out: {', '.join(in_training[:5])}"
    failed = next((e for e in (evaluated, trained) if isinstance(e, Exception)), None)
    if failed is None:
        return ""
    first = (str(failed).strip() or "no message").splitlines()[0]
    return (
        f"{len(lost)} parameters are not in the graph ({', '.join(lost[:5])}), and whether the model trains them "
        f"is not known: its own run on the example inputs failed with {type(failed).__name__}: {first}"
    )


def _kept(model: nn.Module) -> set[str]:
    """Return the parameters that tensors kept by the model were computed from."""
    names = {id(p): name for name, p in model.named_parameters()}
    waiting: list[Any] = [t.grad_fn for module in model.modules() for _, t in tensors(list(module.__dict__.values()))]
    seen: set[Any] = {None}
    found: set[str] = set()
    while waiting:
        step = waiting.pop()
        if step not in seen:
            seen.add(step)
            found.add(names.get(id(getattr(step, "variable", None)), ""))
            waiting += [before for before, _ in step.next_functions]
    return found


def _with_gradient(model: nn.Module, inputs: Arguments, training: bool) -> set[str] | Exception:
    """Return the parameters that a real run of a copy gives a gradient; what it raised if it does not run."""
    twin = copied(model).train(training)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            result: Any = twin(*inputs.args, **inputs.kwargs)
            total: Tensor | float = sum(
                (t.float().sum() for _, t in tensors(result) if t.requires_grad and t.is_floating_point()), 0.0
            )
            if isinstance(total, Tensor):
                total.backward()
    except Exception as error:  # whatever the user's model raises: the caller says so
        return error
    return {name for name, p in twin.named_parameters() if p.grad is not None}
