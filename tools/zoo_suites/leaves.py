"""What of a prepared model no pass can see into, and what of it is neither torch's nor qatc's."""

from collections.abc import Iterable

from torch import fx, nn

_OURS = frozenset({"torch", "qatc", "builtins", "operator", "_operator", "math"})


def float_leaves(gm: fx.GraphModule) -> dict[str, nn.Module]:
    """Return the submodules of the user's own classes that are one op of the graph, and have weights or parts."""
    found = {}
    for node in gm.graph.nodes:
        if node.op == "call_module":
            module = gm.get_submodule(str(node.target))
            if not _is_ours(type(module)) and _holds_something(module):
                found[str(node.target)] = module
    return found


def _holds_something(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.children())


def weights_in(modules: Iterable[nn.Module]) -> int:
    """Return how many weights the modules hold, those that they share once."""
    return sum(p.numel() for p in {id(p): p for module in modules for p in module.parameters()}.values())


def foreign_names(gm: fx.GraphModule) -> list[str]:
    """Return the dotted names of classes and functions that a checkpoint of this model must be allowed to name."""
    used: list[object] = [type(module) for name, module in gm.named_modules() if name]
    for node in gm.graph.nodes:
        used.append(node.target if node.op == "call_function" else None)
        fx.node.map_aggregate((node.args, node.kwargs), lambda a: used.append(type(a)))
    named = [thing for thing in used if callable(thing) and hasattr(thing, "__qualname__") and not _is_ours(thing)]
    return sorted({f"{thing.__module__}.{thing.__qualname__}" for thing in named})


def _is_ours(thing: object) -> bool:
    owner = getattr(thing, "__module__", None) or "builtins"
    return owner.partition(".")[0] in _OURS
