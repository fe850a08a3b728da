"""Ops that overwrite a tensor give a new one instead, and whatever reads the old memory later reads that."""

import inspect
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from qatc import ir
from qatc.calls import call_name, is_tensor
from qatc.memory import Memories, assignment
from qatc.views import SURE_VIEWS, viewed


def stop_overwriting(gm: fx.GraphModule) -> bool:
    """Let every op write a new tensor, and what read an overwritten one later read the result; say if any did.

    A parameter or buffer that the model overwrites is its state, and stays overwritten.
    Raises `TraceError` where memory is read afterwards under a name that may or may not be a view of it.
    """
    changed = False
    memories = Memories(gm)
    names: dict[fx.Node, fx.Node] = {}  # what is another name of a tensor from then on, and the name that counts

    def name_of(node: fx.Node) -> fx.Node:
        return name_of(names[node]) if node in names else node

    for node in list(gm.graph.nodes):
        target, whole = overwritten(node), viewed(node)
        held = {read: memories.value(name_of(read), node) for read in node.all_input_nodes}
        if any(read is not value for read, value in held.items()):
            node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), held.__getitem__)
            changed = True
        if target is None:
            if whole is not None:
                memories.make_view(node, name_of(whole))
            continue
        name = name_of(target)
        if memories.root(name).op == "get_attr":
            if node.target is not operator.setitem:  # done in place, in the graph's order
                memories.make_view(node, name, same=True)
                names[name] = node
            continue
        _stop(gm, node, held[target])
        changed = True
        if call_name(node) in SURE_VIEWS:  # the same values, which earlier views keep seeing in their own shape
            memories.make_view(node, name)
            names[name] = node
        else:
            memories.write(name, node)
            names[node] = name
    if changed:
        memories.drop_unread()
        gm.graph.lint()
        gm.recompile()
    return changed


def overwritten(node: fx.Node) -> fx.Node | None:
    """Return the node whose tensor this one overwrites, or None."""
    if node.op == "call_module":
        inplace = getattr(ir.module_of(node), "inplace", False) is True
        return _node(node.args[0]) if inplace and node.args else None
    if node.op not in ("call_function", "call_method"):
        return None
    if isinstance(node.kwargs.get("out"), fx.Node):
        return _node(node.kwargs["out"])
    if not node.args or not is_tensor(node.args[0]):
        return None
    name = call_name(node)
    by_name = name.endswith("_") and not name.endswith("__") and name not in _CHANGE_NO_VALUES
    by_operator = getattr(node.target, "__module__", "") == "_operator" and name in _OPERATORS
    return _node(node.args[0]) if by_name or by_operator or _inplace(node) is not None else None


def _node(value: Any) -> fx.Node | None:
    return value if isinstance(value, fx.Node) else None


def _inplace(node: fx.Node) -> int | str | None:
    """Return where the call says `inplace=True`: a position, or the keyword."""
    if node.op != "call_function":
        return None
    if node.kwargs.get("inplace") is True:
        return "inplace"
    position = _inplace_position(node.target)
    return position if position is not None and node.args[position : position + 1] == (True,) else None


@cache
def _inplace_position(function: Any) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # built in
        return None
    return names.index("inplace") if "inplace" in names else None


_CHANGE_NO_VALUES = frozenset({"requires_grad_", "share_memory_", "detach_"})
_OPERATORS = {
    "setitem": "setitem", "iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv", "ipow": "pow",
    "ifloordiv": "floordiv", "imod": "mod", "imatmul": "matmul", "iand": "and_", "ior": "or_", "ixor": "xor",
}  # fmt: skip


def _stop(gm: fx.GraphModule, node: fx.Node, target: fx.Node) -> None:
    """Make the op give a new tensor instead of overwriting its target."""
    module = ir.module_of(node)
    if module is not None:
        module.inplace = False
    elif node.target is operator.setitem:
        x, index, value = node.args  # gives nothing; the module gives the tensor that x then is
        path, kwargs = assignment(gm, node, index)
        node.op, node.target, node.args, node.kwargs = "call_module", path, (x, value), kwargs
        ir.set_tensor_type(node, ir.tensor_type(target))
    elif "out" in node.kwargs:
        node.kwargs = {k: v for k, v in node.kwargs.items() if k != "out"}
    elif isinstance(where := _inplace(node), str):
        node.kwargs = {**node.kwargs, where: False}
    elif where is not None:
        node.args = (*node.args[:where], False, *node.args[where + 1 :])
    elif (pure := _pure(node)) is not None:
        node.target = pure
    else:  # nothing computes it without overwriting (zero_, copy_, random values): a copy is overwritten
        with gm.graph.inserting_before(node):
            fresh = gm.graph.call_method("clone", (target,))
        ir.inherit(fresh, target)
        ir.set_source(fresh, ir.source_of(node))
        node.args = (fresh, *node.args[1:])


def _pure(node: fx.Node) -> Any:
    """Return the function or method that computes the same without overwriting, or None."""
    name = call_name(node)
    if name in _OPERATORS:
        return getattr(operator, _OPERATORS[name])
    if node.op == "call_method":
        return name[:-1] if hasattr(torch.Tensor, name[:-1]) else None
    holders = (torch, F, torch._C._nn, torch.special)
    same: Callable[[Any], bool] = lambda holder: getattr(holder, name, None) is node.target  # noqa: E731
    return next((getattr(h, name[:-1], None) for h in holders if same(h)), None)
