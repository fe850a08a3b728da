"""What the tensors of a graph hold when some of them are overwritten: names of one memory, views of it, and its writes.

A tensor and its views are names of one memory. A write through one of them shows in all others: the memory keeps its
writes in order, and a name that is read behind a write gets its value made anew, from the memory's, where it is read.
That is how functorch's functionalization does it, here on a graph of the model's own calls.
"""

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import fx

from qatc import ir
from qatc.calls import call_name, contains_node
from qatc.errors import TraceError
from qatc.modules import ops
from qatc.modules.forms.form import plain_value
from qatc.views import PARTS, SURE_VIEW_MODULES, SURE_VIEWS, TRANSPOSES

Write = tuple[fx.Node, fx.Node]  # the name that was written to, or its base; the node that gives what it then holds


class Memories:
    """Follows a walk over a graph in its order: is told of views and writes, and says what is read instead of a name.

    `make_view` and `write` are told of a node when it is reached; `value` is asked for what a later node reads. What a
    name is surely a view of, in the end, is its base; what it may be a view of, its root.
    """

    def __init__(self, gm: fx.GraphModule) -> None:
        self.gm = gm
        self._parents: dict[fx.Node, fx.Node] = {}  # of sure views
        self._perhaps: dict[fx.Node, fx.Node] = {}  # of what may be a view or a copy
        self._writes: dict[fx.Node, list[Write]] = defaultdict(list)  # by base
        self._values: dict[fx.Node, tuple[int, fx.Node]] = {}  # how many writes it shows, and the node that gives it
        self._all_writes: dict[fx.Node, list[Write]] = defaultdict(list)  # by root
        self._inserted: list[fx.Node] = []
        self._made: dict[fx.Node, int] = {}  # how many of them there were when what may be a view was made

    def make_view(self, node: fx.Node, whole: fx.Node, same: bool = False) -> None:
        """Note a name that is, or may be, another form of the memory of `whole`; or the `same` tensor."""
        if same or call_name(node) in SURE_VIEWS or ir.module_of(node, SURE_VIEW_MODULES) is not None:
            self._parents[node] = whole
            self._values[node] = len(self._writes[self._base(node)]), node
        else:
            self._perhaps[node] = whole
            self._made[node] = len(self._all_writes[self.root(node)])

    def write(self, name: fx.Node, result: fx.Node) -> None:
        """Note that a name holds the result of a node from there on."""
        base = self._base(name)
        self._writes[base].append((name, result))
        self._values[name] = len(self._writes[base]), result
        self._all_writes[self.root(name)].append((base, result))

    def value(self, name: fx.Node, at: fx.Node) -> fx.Node:
        """Return the node that gives what the name holds, inserted in front of `at` where there is none yet.

        Raises `TraceError` where it is not known whether the memory was overwritten since.
        """
        if not self._all_writes.get(self.root(name)):
            return name
        self._check(name)
        return self._current(name, at)

    def drop_unread(self) -> None:
        """Take out of the graph what was inserted and is not read."""
        for node in reversed(self._inserted):
            if not node.users:
                module = ir.module_of(node)
                self.gm.graph.erase_node(node)
                if module is not None:
                    self.gm.delete_submodule(str(node.target))

    def root(self, name: fx.Node) -> fx.Node:
        """Return the tensor that the name is, or may be, in the end a view of."""
        base = self._base(name)
        whole = self._perhaps.get(base)
        return base if whole is None else self.root(whole)

    def _base(self, name: fx.Node) -> fx.Node:
        """Return the tensor that the name is surely a view of."""
        while name in self._parents:
            name = self._parents[name]
        return name

    def _check(self, name: fx.Node) -> None:
        """Raise a `TraceError` if something was written since that may or may not be this memory."""
        base = self._base(name)
        for other, write in self._all_writes[self.root(name)][self._made.get(base, 0) :]:
            if other is not base:
                view = base if base in self._perhaps else other
                raise TraceError(
                    f"%{write.name} overwrites what may be the memory of %{view.name} and of "
                    f"%{self._perhaps[view].name}, of which one is read afterwards",
                    where=str(ir.source_of(write)),
                    remedy="write the result to a new tensor: relu instead of relu_, x = x + y instead of x += y",
                )

    def _current(self, name: fx.Node, at: fx.Node) -> fx.Node:
        writes = self._writes[self._base(name)]
        shown, value = self._values.get(name, (0, name))
        missed = [write for write in writes[shown:] if not self._are_apart(name, write[0])]
        if missed and name in self._parents:
            value = self._insert_view(name, self._current(self._parents[name], at), at)
        else:
            for written, result in missed:
                value = self._put_back(written, value, result, at)
        self._values[name] = len(writes), value
        return value

    def _are_apart(self, name: fx.Node, other: fx.Node) -> bool:
        """Say whether two names are views of two results of one split."""
        parts = [{self._parents[view]: view.args[1] for view in self._views(n) if self._is_part(view)}
                 for n in (name, other)]  # fmt: skip
        return any(parts[1].get(several, index) != index for several, index in parts[0].items())

    def _views(self, name: fx.Node) -> list[fx.Node]:
        """Return the views that lead to the name, the name first."""
        found = []
        while name in self._parents:
            found.append(name)
            name = self._parents[name]
        return found

    def _is_part(self, view: fx.Node) -> bool:
        return call_name(view) == "getitem" and call_name(self._parents[view]) in PARTS

    def _put_back(self, name: fx.Node, base: fx.Node, new: fx.Node, at: fx.Node) -> fx.Node:
        """Return what the base of a name holds once the name holds `new`; before, it held `base`."""
        views = self._views(name)
        held = [base]
        for view in reversed(views[1:]):
            held.append(self._insert_view(view, held[-1], at))
        for view in views:
            whole = held.pop()
            if call_name(view) in PARTS:
                continue  # no tensor: its parts are put back into what was split
            new = self._replaced(view, held[-1] if self._is_part(view) else whole, new, at)
        return new

    def _replaced(self, view: fx.Node, whole: fx.Node, new: fx.Node, at: fx.Node) -> fx.Node:
        """Return the whole tensor with the view's part of it replaced."""
        name, kind = call_name(view), ir.tensor_type(whole)
        if view.op == "call_module":  # the same tensor under another name
            return new
        if name in TRANSPOSES:
            return self._insert(at, view, view.op, view.target, (new, *view.args[1:]), view.kwargs, kind)
        if name == "permute":
            dims = view.kwargs.get("dims", view.args[1] if isinstance(view.args[1], tuple | list) else view.args[1:])
            order = sorted(range(len(dims)), key=lambda i: dims[i] % len(dims))  # type: ignore[index, arg-type, operator]
            return self._insert(at, view, "call_method", "permute", (new, order), {}, kind)
        index = self._index_of(view)
        if index is None:
            shape = self._insert(at, view, "call_function", getattr, (whole, "shape"), {}, None)
            return self._insert(at, view, "call_method", "reshape", (new, shape), {}, kind)
        path, kwargs = assignment(self.gm, view, index)
        return self._insert(at, view, "call_module", path, (whole, new), kwargs, kind)

    def _index_of(self, view: fx.Node) -> Any:
        """Return the index by which the view is a part of its whole; None if it is all of it in another shape."""
        values = dict(zip(("dim", "start", "length"), view.args[1:], strict=False)) | dict(view.kwargs)
        match call_name(view):
            case "getitem" if self._is_part(view):
                dim, part = _part_of_several(self._parents[view], view.args[1])
            case "getitem":
                return view.args[1]
            case "select":
                dim, part = values["dim"], values.get("index", values.get("start"))
            case "narrow":
                dim, start, length = (values[name] for name in ("dim", "start", "length"))
                part = _span(start, length)
            case _:
                return None
        if not isinstance(dim, int) or part is None:
            raise TraceError(
                f"a part of a tensor is overwritten through %{view.name}, and which part is not known before it runs",
                where=str(ir.source_of(view)),
                remedy="write it as x[index] = value",
            )
        return (*[slice(None)] * dim, part) if dim >= 0 else (..., part, *[slice(None)] * (-dim - 1))

    def _insert_view(self, view: fx.Node, whole: fx.Node, at: fx.Node) -> fx.Node:
        """Take the view of another tensor."""
        target: Any = view.target
        module = ir.module_of(view)
        if module is not None:  # a module a place
            target = ir.free_path(self.gm, str(target))
            ir.set_module(self.gm, target, copy.copy(module))
        return self._insert(at, view, view.op, target, (whole, *view.args[1:]), view.kwargs, ir.tensor_type(view))

    def _insert(
        self, at: fx.Node, source: fx.Node, op: str, target: Any, args: Any, kwargs: Any, kind: ir.TensorType | None
    ) -> fx.Node:
        with self.gm.graph.inserting_before(at):
            node = self.gm.graph.create_node(op, target, args, kwargs)
        ir.set_source(node, ir.source_of(source))
        ir.set_tensor_type(node, kind)
        self._inserted.append(node)
        return node


def _span(start: Any, length: Any) -> slice | None:
    if not isinstance(start, int) or not isinstance(length, int):
        return None
    return slice(start, start + length if start + length else None)


def _part_of_several(split: fx.Node, index: Any) -> tuple[Any, Any]:
    """Return the dimension that is split, and the part of it that one of the results is; None for what is not known."""
    name, kind = call_name(split), ir.tensor_type(split.all_input_nodes[0])
    given = [*split.args[1:], *(value for key, value in split.kwargs.items() if key != "dim")]
    count = 0 if name == "unbind" else 1
    dim = split.kwargs.get("dim", given[count] if len(given) > count else 0)
    if name == "unbind":
        return dim, index
    size = kind.shape[dim] if kind is not None and isinstance(dim, int) else None
    if size is None or contains_node(given[0]):
        return dim, None
    places = getattr(torch, name)(torch.arange(size), plain_value(given[0]))[index]
    return dim, _span(int(places[0]), len(places))


def assignment(gm: fx.GraphModule, at: fx.Node, index: Any) -> tuple[str, dict[str, Any]]:
    """Add a module for x[index] = value; return its path, and the keyword arguments of its call."""
    computed = contains_node(index)
    path = ir.free_path(gm, ir.scoped(at, "assign"))
    ir.set_module(gm, path, ops.Assign(None if computed else plain_value(index)).train(gm.training))
    return path, {"index": index} if computed else {}
