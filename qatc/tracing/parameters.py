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
        if node in wanted or node.op == "call_module" or not node.users:
            wanted |= set(node.all_input_nodes)
            live.add(str(node.target))
    reached = {id(p) for name, p in root.named_parameters() if _within(name, live)}
    return [name for name, p in root.named_parameters() if id(p) not in reached]


def _within(name: str, live: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:n]) in live for n in range(1, len(parts) + 1))


def check_reached(
    model: nn.Module, lost: list[str], inputs: Arguments, anonymous: list[str], attributes: list[str]
) -> str:
    """Raise a `TraceError` if one of these parameters trains in the model; return a line if only a branch of training.

    `anonymous` are constants of the graph that are no member of the model: what an earlier run kept. `attributes` are
    those that are tensors of a module, but neither parameters nor buffers: such a run may have kept them, too.
    """
    kept = _kept(model) if anonymous or attributes else set()
    in_eval = sorted(set(lost) & (kept | _with_gradient(model, inputs, training=False)))
    in_training = sorted(set(lost) & _with_gradient(model, inputs, training=True)) if not in_eval else []
    if in_eval or (in_training and anonymous):
        names = in_eval or in_training
        raise TraceError(
            f"{len(names)} parameters that the model trains are not in its graph: {', '.join(names[:5])}",
            remedy="a tensor computed from them is kept between calls, or passes through code that torch cannot see: "
            "clear such a cache before qatc.prepare (a model that never ran has none)",
        )
    if in_training:
        return f"{len(in_training)} parameters are used only in training and left out: {', '.join(in_training[:5])}"
    return ""


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


def _with_gradient(model: nn.Module, inputs: Arguments, training: bool) -> set[str]:
    """Return the parameters that a real run of a copy gives a gradient; none if it does not run."""
    twin = copied(model).train(training)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            result: Any = twin(*inputs.args, **inputs.kwargs)
            total: Tensor | float = sum(
                (t.float().sum() for _, t in tensors(result) if t.requires_grad and t.is_floating_point()), 0.0
            )
            if isinstance(total, Tensor):
                total.backward()
    except Exception:
        return set()
    return {name for name, p in twin.named_parameters() if p.grad is not None}
