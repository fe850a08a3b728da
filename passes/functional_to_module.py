"""Turn functions, operators and tensor methods into modules."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import fx

from qatc import ir
from qatc.invariants import NO_INPLACE, ONE_CALL_SITE, Invariant
from qatc.modules.functional_forms import FORMS, Form
from qatc.pipeline import Pass
from qatc.rewrite import Call, Rule, apply


@dataclass(frozen=True)
class FunctionalToModule(Pass):
    """F.relu, x + y, torch.cat, x.mean(...) and their like become modules; nothing overwrites its input any more.

    Later passes then match modules alone, and each op has a name and a place for its quantizer. A call with values
    that the module cannot express stays as it is. Dropout follows `train()` and `eval()` again, whatever the flag was
    when the model was traced.
    """

    name: ClassVar[str] = "functional-to-module"
    requires: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE,)
    ensures: ClassVar[tuple[Invariant, ...]] = (NO_INPLACE,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        stopped = stop_overwriting(gm)
        return bool(apply(gm, RULES)) or stopped


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
    overwritten = node.args[0] if values.get("inplace") is True or overwrites(node) else None
    with gm.graph.inserting_before(node):
        new = gm.graph.create_node("call_module", path, tuple(tensors), computed, name=node.name)
    ir.inherit(new, node)
    source = ir.source_of(node)
    ir.set_source(new, ir.Source(path, source.file, source.line))
    node.replace_all_uses_with(new)
    gm.graph.erase_node(node)
    if isinstance(overwritten, fx.Node):
        read_result_instead(overwritten, new)
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


def contains_node(value: Any) -> bool:
    """Say whether a value is, or holds, a node."""
    return isinstance(value, fx.Node) or (isinstance(value, tuple) and any(contains_node(v) for v in value))


def module_path(node: fx.Node, name: str) -> str:
    """Return a path for the new module, inside the user's module that made the call."""
    scope = ir.source_of(node).path
    return f"{scope}.{name}" if scope else name


def overwrites(node: fx.Node) -> bool:
    """Say whether the call by its name changes its first argument."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    inplace_name = name.endswith("_") and not name.endswith("__")
    operator_name = getattr(node.target, "__module__", "") == "_operator" and name in INPLACE_OPERATORS
    return inplace_name or operator_name


INPLACE_OPERATORS = ("iadd", "isub", "imul", "itruediv")


def read_result_instead(overwritten: fx.Node, result: fx.Node) -> None:
    """Let whatever reads a tensor after it was overwritten read the result."""
    order = {node: i for i, node in enumerate(result.graph.nodes)}
    for user in list(overwritten.users):
        if user is not result and order[user] > order[result]:
            user.replace_input_with(overwritten, result)


def stop_overwriting(gm: fx.GraphModule) -> bool:
    """Make modules with `inplace=True` write a new tensor, read by whatever read the old one afterwards."""
    changed = False
    for node, module in ir.module_calls(gm):
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
            if node.args and isinstance(node.args[0], fx.Node):
                read_result_instead(node.args[0], node)
            changed = True
    if changed:
        gm.recompile()
    return changed


def _rule(form: Form) -> Rule:
    return Rule(form.name, Call(form.targets), partial(convert, form))


RULES = tuple(_rule(form) for form in FORMS)
