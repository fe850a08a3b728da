"""Tensors that a model overwrites: each becomes a new tensor, and whatever reads the old memory later reads that.

A tensor and its views are names of one memory. When one of them is written, the others hold the new values too: views
of it are taken again of the result, and what it is a view of gets the result written back into a copy.
"""

import copy
import inspect
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from qatc import ir
from qatc.calls import call_name, contains_node, is_tensor
from qatc.errors import TraceError
from qatc.modules import ops
from qatc.modules.forms.form import plain_value
from qatc.views import SURE_VIEW_MODULES, SURE_VIEWS, TRANSPOSES, is_view, viewed


def stop_overwriting(gm: fx.GraphModule) -> bool:
    """Let every op write a new tensor, and what read an overwritten one later read the result; say if any did.

    A parameter or buffer that the model overwrites is its state, and stays overwritten.
    Raises `TraceError` where memory is read afterwards under a name that may or may not be a view of it.
    """
    changed = False
    for node in list(gm.graph.nodes):
        target = overwritten(node)
        if target is None:
            continue
        name = call_name(node)
        state = _root(target).op == "get_attr"
        if state and node.target is operator.setitem:
            continue  # done in place, in the graph's order
        result = node if state else _without_overwriting(gm, node, target)
        redirection = _Redirection(gm, result)
        if name in _CHANGE_SHAPE:
            redirection.rename(target, result)
        else:
            redirection.follow(target, result)
        changed = True
    if changed:
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
# The same values, which earlier views keep seeing in their own shape.
_CHANGE_SHAPE = frozenset({"squeeze_", "swapaxes_", "swapdims_", "t_", "transpose_", "unsqueeze_"})
_OPERATORS = {
    "setitem": "setitem", "iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv", "ipow": "pow",
    "ifloordiv": "floordiv", "imod": "mod", "imatmul": "matmul", "iand": "and_", "ior": "or_", "ixor": "xor",
}  # fmt: skip


def _without_overwriting(gm: fx.GraphModule, node: fx.Node, target: fx.Node) -> fx.Node:
    """Make the op write a new tensor, and return the node that gives it: the op itself."""
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
    return node


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


class _Redirection:
    """Leads what reads an overwritten memory behind a node to its result; new nodes stand right behind that node."""

    def __init__(self, gm: fx.GraphModule, result: fx.Node) -> None:
        self.gm, self.result, self.last = gm, result, result
        self.made: set[fx.Node] = set()
        self.done: set[fx.Node] = {result}

    def rename(self, old: fx.Node, new: fx.Node) -> None:
        """Let what reads `old` later read `new`."""
        for user in list(old.users):
            if self._is_later(user):
                user.replace_input_with(old, new)

    def follow(self, old: fx.Node, new: fx.Node) -> None:
        """Let `new` be read instead of `old`, and of all that shares old's memory what it then holds."""
        if old in self.done:
            return
        self.done.add(old)
        self.rename(old, new)
        for view in list(old.users):
            if is_view(view, old) and not self._is_later(view) and view not in self.done and self._is_read(view):
                self._check(view)
                self.follow(view, self._taken_again(view, new))
        parent = viewed(old)
        if parent is None:
            return
        if old.args[0] is not parent:  # one part of several; the others are other memory
            self.done.add(old.args[0])  # type: ignore[arg-type]  # the node of the call that gives the parts
        if parent not in self.done and self._is_read(parent):
            self._check(old)
            self.follow(parent, self._written_back(old, parent, new))

    def _is_later(self, node: fx.Node) -> bool:
        return node > self.result and node not in self.made

    def _is_read(self, node: fx.Node, seen: frozenset[fx.Node] = frozenset()) -> bool:
        """Say whether anything reads the memory later, by this name or by one not yet led to the result."""
        if any(self._is_later(user) for user in node.users):
            return True
        family = [view for view in node.users if is_view(view, node)]
        parent = viewed(node)
        if parent is not None:
            family.append(parent)
        seen = seen | {node}
        return any(self._is_read(n, seen) for n in family if n not in seen and n not in self.done)

    def _check(self, view: fx.Node) -> None:
        """Raise a `TraceError` if it is not sure that the node gives a view, and of what part."""
        parent = viewed(view)
        sure = call_name(view) in SURE_VIEWS or ir.module_of(view, SURE_VIEW_MODULES) is not None
        if sure and parent is view.args[0]:
            return
        raise TraceError(
            f"%{self.result.name} overwrites what may be the memory of %{view.name} and of %{parent and parent.name}, "
            "of which one is read afterwards",
            where=str(ir.source_of(self.result)),
            remedy="write the result to a new tensor: relu instead of relu_, x = x + y instead of x += y",
        )

    def _insert(
        self, op: str, target: Any, args: Any, kwargs: Any = None, kind: ir.TensorType | None = None
    ) -> fx.Node:
        with self.result.graph.inserting_after(self.last):
            node = self.result.graph.create_node(op, target, args, kwargs)
        ir.set_source(node, ir.source_of(self.result))
        ir.set_tensor_type(node, kind)
        self.made.add(node)
        self.last = node
        return node

    def _taken_again(self, view: fx.Node, new: fx.Node) -> fx.Node:
        target: Any = view.target
        module = ir.module_of(view)
        if module is not None:  # a module a place
            target = ir.free_path(self.gm, str(target))
            ir.set_module(self.gm, target, copy.copy(module))
        return self._insert(view.op, target, (new, *view.args[1:]), view.kwargs, ir.tensor_type(view))

    def _written_back(self, view: fx.Node, parent: fx.Node, new: fx.Node) -> fx.Node:
        """Return the parent's tensor with the view's part of it replaced."""
        name, kind = call_name(view), ir.tensor_type(parent)
        if view.op == "call_module":  # the same tensor under another name
            return new
        if name in TRANSPOSES:
            return self._insert(view.op, view.target, (new, *view.args[1:]), view.kwargs, kind)
        if name == "permute":
            dims = view.kwargs.get("dims", view.args[1] if isinstance(view.args[1], tuple | list) else view.args[1:])
            order = sorted(range(len(dims)), key=lambda i: dims[i] % len(dims))  # type: ignore[index, arg-type, operator]
            return self._insert("call_method", "permute", (new, order), kind=kind)
        index = _index_of(view)
        if index is None:
            shape = self._insert("call_function", getattr, (parent, "shape"))
            return self._insert("call_method", "reshape", (new, shape), kind=kind)
        path, kwargs = assignment(self.gm, self.result, index)
        return self._insert("call_module", path, (parent, new), kwargs, kind)


def assignment(gm: fx.GraphModule, at: fx.Node, index: Any) -> tuple[str, dict[str, Any]]:
    """Add a module for x[index] = value; return its path, and the keyword arguments of its call."""
    computed = contains_node(index)
    path = ir.free_path(gm, ir.scoped(at, "assign"))
    ir.set_module(gm, path, ops.Assign(None if computed else plain_value(index)).train(gm.training))
    return path, {"index": index} if computed else {}


def _index_of(view: fx.Node) -> Any:
    """Return the index by which the view is a part of its parent; None if it is all of it in another shape."""
    values = dict(zip(("dim", "start", "length"), view.args[1:], strict=False)) | dict(view.kwargs)
    match call_name(view):
        case "getitem":
            return view.args[1]
        case "select":
            dim, part = values["dim"], values.get("index", values.get("start"))
        case "narrow":
            dim, start, length = (values[name] for name in ("dim", "start", "length"))
            if not isinstance(start, int) or not isinstance(length, int):
                raise _unknown_part(view)
            part = slice(start, start + length if start + length else None)
        case _:
            return None
    if not isinstance(dim, int):
        raise _unknown_part(view)
    return (*[slice(None)] * dim, part) if dim >= 0 else (..., part, *[slice(None)] * (-dim - 1))


def _unknown_part(view: fx.Node) -> TraceError:
    return TraceError(
        f"a part of a tensor is overwritten through %{view.name}, and which part is not known before it runs",
        where=str(ir.source_of(view)),
        remedy="write it as x[index] = value",
    )


def _root(node: fx.Node) -> fx.Node:
    """Return the tensor that the node is, in the end, a view of; what is still overwritten is the state it was."""
    parent = overwritten(node) or viewed(node)
    return node if parent is None else _root(parent)
