"""Turn functions, operators and tensor methods into modules."""

import operator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, fx, nn

from qatc import ir
from qatc.constants import constants
from qatc.errors import TraceError
from qatc.invariants import NO_INPLACE, ONE_CALL_SITE, Invariant
from qatc.modules import ops
from qatc.modules.functional_forms import FORMS, Form
from qatc.pipeline import Pass
from qatc.rewrite import Call, Rule, apply


@dataclass(frozen=True)
class FunctionalToModule(Pass):
    """F.relu, x + y, torch.cat, x.mean(...) and their like become modules; nothing overwrites its input any more.

    Later passes then match modules alone, and each op has a name and a place for its quantizer. A call with values
    that the module cannot express stays as it is. Dropout follows `train()` and `eval()` again, whatever the flag was
    when the model was traced. What read a tensor after it was overwritten reads the result; writing through a view
    that something else reads is an error.
    """

    name: ClassVar[str] = "functional-to-module"
    requires: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE,)
    ensures: ClassVar[tuple[Invariant, ...]] = (NO_INPLACE,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        stopped = stop_overwriting(gm)
        changed = bool(apply(gm, RULES)) or stopped
        known = constants(gm.graph)
        for node in gm.graph.nodes:
            op = node.op in ("call_function", "call_method") and node not in known
            if op and may_be_tensor(node) and not handles_container(node):
                ir.set_why_float(node, ir.why_float(node) or "not an op that qatc knows")
        return changed


def convert(form: Form, gm: fx.GraphModule, node: fx.Node) -> bool:
    """Replace the call by the form's module if the values given allow it."""
    bound = bind(form, node)
    if bound is None:
        return False
    tensors, values = bound
    if not all(is_tensor(t) for t in tensors[:1]) and not any(is_tensor(t) for t in tensors):
        return False  # arithmetic on sizes
    computed = {k: v for k, v in values.items() if contains_node(v)}
    if not set(computed) <= form.computed:
        return False
    module = form.build(**{k: v for k, v in values.items() if k not in computed})
    if module is None:
        return False
    path = ir.free_path(gm, module_path(node, form.name))
    ir.set_module(gm, path, module.train(gm.training))
    if values.get("inplace") is True:
        read_result_instead(tensors[0], node)
    # The node stays itself, so that its name does.
    node.op, node.target, node.args, node.kwargs = "call_module", path, tuple(tensors), computed
    ir.set_source(node, replace(ir.source_of(node), path=path))
    return True


def bind(form: Form, node: fx.Node) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the tensors and the values of the parameters; None where the call does not fit the form."""
    args, kwargs = list(node.args), dict(node.kwargs)
    for name in ("input", "self", "tensors")[: 1 if args else 3]:
        if name in kwargs:
            args.insert(0, kwargs.pop(name))
    if len(args) < form.tensors and "other" in kwargs:
        args.append(kwargs.pop("other"))
    tensors, rest = args[: form.tensors], args[form.tensors :]
    names = list(form.parameters)
    if form.variadic and len(rest) > 1:
        rest = [tuple(rest)]
    if form.name == "mean" and len(rest) > 1 and all(isinstance(r, int) and not isinstance(r, bool) for r in rest):
        rest = [tuple(rest)]  # x.mean(2, 3)
    if len(tensors) != form.tensors or len(rest) > len(names) or not set(kwargs) <= set(names):
        return None
    given = dict(zip(names, rest, strict=False)) | kwargs
    values = {name: plain(given.get(name, default)) for name, default in form.parameters.items()}
    return tensors, values


def plain(value: Any) -> Any:
    """Return lists as tuples, which compare and hash."""
    return tuple(plain(v) for v in value) if isinstance(value, list | tuple) else value


def is_tensor(value: Any) -> bool:
    """Say whether an argument is a tensor of the graph, as far as is known (sizes are not)."""
    if isinstance(value, list | tuple):
        return bool(value) and all(is_tensor(v) for v in value)
    if not isinstance(value, fx.Node):
        return False
    return ir.tensor_type(value) is not None or not is_size(value)


def is_size(node: fx.Node) -> bool:
    """Say whether the node is a size, or computed from sizes alone."""
    if node.op == "call_method" and node.target in ("size", "dim", "numel", "item"):
        return True
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    inputs = node.all_input_nodes
    return node.op == "call_function" and bool(inputs) and all(is_size(n) for n in inputs)


def may_be_tensor(node: fx.Node) -> bool:
    """Say whether the node gives a tensor; where types are not known, whether it may."""
    if ir.tensor_type(node) is not None:
        return True
    if node.op == "placeholder" and node.args and isinstance(node.args[0], int | float | str):
        return False  # an argument whose default is a plain value
    typed = any(ir.tensor_type(n) is not None for n in node.graph.nodes)
    return not (typed or is_size(node) or call_name(node) in GIVE_SEVERAL)


def handles_container(node: fx.Node) -> bool:
    """Say whether the node only takes a tensor out of an argument, or puts tensors into a container: no op on them."""
    if isinstance(node.target, type):
        return True
    source = node.args[0] if node.target in (operator.getitem, getattr) else None
    if not isinstance(source, fx.Node) or not (source.op == "placeholder" or handles_container(source)):
        return False
    if ir.tensor_type(node) is not None:
        return ir.tensor_type(source) is None
    key = node.args[1]
    return isinstance(key, str) and (node.target is operator.getitem or not hasattr(Tensor, key))


def contains_node(value: Any) -> bool:
    """Say whether a value is, or holds, a node."""
    return isinstance(value, fx.Node) or (isinstance(value, tuple) and any(contains_node(v) for v in value))


def module_path(node: fx.Node, name: str) -> str:
    """Return a path for the new module, inside the user's module that made the call."""
    scope = ir.source_of(node).path
    return f"{scope}.{name}" if scope else name


def overwrites(node: fx.Node) -> bool:
    """Say whether the op changes its first argument."""
    if node.op == "call_module":
        return getattr(ir.module_of(node), "inplace", False) is True
    if node.op not in ("call_function", "call_method") or is_size(node):
        return False
    name = call_name(node)
    inplace_name = name.endswith("_") and not name.endswith("__")
    operator_name = getattr(node.target, "__module__", "") == "_operator" and name in INPLACE_OPERATORS
    return inplace_name or operator_name or node.kwargs.get("inplace") is True


INPLACE_OPERATORS = ("iadd", "isub", "imul", "itruediv", "ipow", "ifloordiv", "imod", "iand", "ior", "ixor")


def stop_overwriting(gm: fx.GraphModule) -> bool:
    """Let what read an overwritten tensor read the result; modules with `inplace=True` write a new tensor."""
    changed = False
    for node in gm.graph.nodes:
        if overwrites(node) and node.args:
            changed |= read_result_instead(node.args[0], node)
            module = ir.module_of(node)
            if module is not None:
                module.inplace = False
                changed = True
    if changed:
        gm.recompile()
    return changed


def read_result_instead(overwritten: Any, result: fx.Node) -> bool:
    """Let whatever reads a tensor after it was overwritten read the result; say whether anything does.

    Raises `TraceError` where its memory is read afterwards under another name.
    """
    if not isinstance(overwritten, fx.Node):
        return False
    order = {node: i for i, node in enumerate(result.graph.nodes)}
    for other in same_memory(overwritten) - {overwritten, result}:
        for reader in other.users:
            if order[reader] > order[result]:
                raise TraceError(
                    f"%{result.name} overwrites %{overwritten.name}, and %{reader.name} reads the same memory as "
                    f"%{other.name}",
                    where=str(ir.source_of(result)),
                    remedy="write the result to a new tensor: relu instead of relu_, x = x + y instead of x += y",
                )
    later = [user for user in overwritten.users if order[user] > order[result]]
    for user in later:
        user.replace_input_with(overwritten, result)
    return bool(later)


def same_memory(node: fx.Node) -> set[fx.Node]:
    """Return the nodes whose tensors may share the node's memory: what it is a view of, and views of that."""
    found, top = {node}, node
    while is_view(top) and isinstance(top.args[0], fx.Node):
        several, top = call_name(top.args[0]) in GIVE_SEVERAL, top.args[0]
        found |= {top} if several else views_of(top)  # the other parts of a split are other memory
    return found | views_of(node)


def views_of(node: fx.Node) -> set[fx.Node]:
    """Return the node, and the views of it and of them."""
    return {node}.union(*(views_of(user) for user in node.users if is_view(user) and user.args[:1] == (node,)))


def is_view(node: fx.Node) -> bool:
    """Say whether the node's tensor may be another form of its first argument's memory."""
    if node.op == "call_module":
        return ir.module_of(node, VIEW_MODULES) is not None
    return node.op in ("call_function", "call_method") and call_name(node) in VIEWS and not is_size(node)


def call_name(node: fx.Node) -> str:
    """Return the name of the function or method that the node calls."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


# Functions and methods that give several tensors in a tuple.
GIVE_SEVERAL = frozenset({"chunk", "split", "tensor_split", "unbind"})
VIEWS = GIVE_SEVERAL | {
    "contiguous", "detach", "diagonal", "dropout", "expand", "expand_as", "flatten", "getattr", "getitem", "moveaxis",
    "movedim", "narrow", "permute", "reshape", "select", "squeeze", "swapaxes", "swapdims", "t", "to", "transpose",
    "unflatten", "unfold", "unsqueeze", "view", "view_as",
}  # fmt: skip
VIEW_MODULES = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd,
    ops.Reshape, ops.Permute, ops.Transpose, ops.Squeeze, ops.Unsqueeze,
)  # fmt: skip


def _rule(form: Form) -> Rule:
    return Rule(form.name, Call(form.targets), partial(convert, form))


RULES = tuple(_rule(form) for form in FORMS)
