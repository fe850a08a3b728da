"""Give every call site its own module."""

import copy
from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

from torch import fx, nn

from qatc import ir
from qatc.invariants import ONE_CALL_SITE, Invariant
from qatc.pipeline import Pass


@dataclass(frozen=True)
class DedupModules(Pass):
    """A module called at several places becomes one module a place; parameters stay shared, the first keeps its name.

    What later passes attach to a module (an activation fused in, a weight's quantizer) then belongs to one tensor.
    A module with buffers stays one: running statistics are of all its calls, and two modules cannot share a buffer
    for long (moving a model to a device replaces buffers).
    """

    name: ClassVar[str] = "dedup-modules"
    ensures: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        calls: dict[str, list[fx.Node]] = defaultdict(list)
        for node, module in ir.module_calls(gm):
            if not any(True for _ in module.buffers()):
                calls[str(node.target)].append(node)
        for path, nodes in calls.items():
            for number, node in enumerate(nodes[1:], start=1):
                node.target = ir.free_path(gm, f"{path}__call{number}")
                ir.set_module(gm, node.target, shared_copy(gm.get_submodule(path)))
        changed = any(len(nodes) > 1 for nodes in calls.values())
        if changed:
            gm.recompile()
        return changed


def shared_copy(module: nn.Module) -> nn.Module:
    """Return another module over the same parameters."""
    twin = copy.copy(module)
    twin.__dict__ = {k: copy.copy(v) if isinstance(v, dict) else v for k, v in module.__dict__.items()}
    twin._modules = {name: None if child is None else shared_copy(child) for name, child in module._modules.items()}
    return twin
