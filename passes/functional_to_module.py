"""Turn functions, operators and tensor methods into modules."""

import operator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from torch import fx, nn

from qatc import ir
from qatc.calls import call_name, contains_node, has_types, is_tensor, may_be_tensor, takes_from_container
from qatc.constants import constants
from qatc.invariants import NO_INPLACE, ONE_CALL_SITE, Invariant
from qatc.modules import ops
from qatc.modules.forms.form import Form, names, plain_value
from qatc.modules.forms.pieces import PIECES, piece
from qatc.modules.forms.reasons import why_float
from qatc.modules.functional_forms import FORMS
from qatc.pipeline import Pass
from qatc.rewrite import Call, Chain, Op, Rule, apply


@dataclass(frozen=True)
class FunctionalToModule(Pass):
    """F.relu, x + y, torch.cat, x.mean(...) and their like become modules.

    Later passes then match modules alone, and each op has a name and a place for its quantizer. A call with values that
    the module cannot express stays as it is, with the reason. Dropout and stochastic depth follow `train()` and
    `eval()` again, whatever the flag was when the model was traced.
    """

    name: ClassVar[str] = "functional-to-module"
    requires: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE, NO_INPLACE)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        constant = constants(gm.graph)
        changed = drop_unread(gm)
        changed |= bool(apply(gm, rules(constant)))
        changed |= drop_unread(gm)
        for node in gm.graph.nodes:
            called = node.op in ("call_function", "call_method") and node not in constant
            if called and may_be_tensor(node) and not takes_from_container(node) and _is_float(node):
                ir.set_why_float(node, ir.why_float(node) or why_float(node))
        return changed


def convert(form: Form, constant: set[fx.Node], gm: fx.GraphModule, node: fx.Node) -> bool:
    """Replace the call by the form's module if the values given allow it."""
    if node in constant:
        return False
    found = as_module(form, node)
    if found is None:
        return False
    module, tensors, computed = found
    if not any(is_tensor(t) for t in tensors) or not any(map(_is_float, (node, *node.all_input_nodes))):
        return False  # arithmetic on sizes, or on integers
    become_call(gm, node, form.name, module, tensors, computed)
    return True


def as_module(form: Form, node: fx.Node) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]] | None:
    """Return the form's module for a call, and the arguments that it then takes; None where it cannot express them."""
    bound = bind(form, node) if form.fits(node) else None
    if bound is None:
        return None
    tensors, values = bound
    computed = {k: v for k, v in values.items() if contains_node(v)}
    if not set(computed) <= form.computed:
        return None
    try:
        module = form.build(**{k: v for k, v in values.items() if k not in computed})
    except (TypeError, ValueError):  # values that torch's own module refuses
        return None
    return None if module is None else (module, tuple(tensors), computed)


def become_call(
    gm: fx.GraphModule, node: fx.Node, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Make the node, which stays itself and keeps its name, a call of a new module."""
    path = ir.free_path(gm, ir.scoped(node, name))
    ir.set_module(gm, path, module.train(gm.training))
    node.op, node.target, node.args, node.kwargs = "call_module", path, args, kwargs
    ir.set_source(node, replace(ir.source_of(node), path=path))


def bind(form: Form, node: fx.Node) -> tuple[list[Any], dict[str, Any]] | None:
    """Return the tensors and the values of the parameters; None where the call does not fit the form."""
    args, kwargs = list(node.args), dict(node.kwargs)
    for position, spellings in enumerate((_FIRST, _SECOND)[: form.tensors]):
        for name in spellings if len(args) <= position else ():
            if name in kwargs and name not in form.parameters:
                args.append(kwargs.pop(name))
                break
    if kwargs.get("out", node) is None:
        del kwargs["out"]
    tensors, rest = args[: form.tensors], args[form.tensors :]
    names = list(form.parameters)
    # x.view(2, 3), x.mean(2, 3)
    if form.variadic and len(rest) > 1 and not any(isinstance(r, bool) or r is None for r in rest):
        rest = [tuple(rest)]
    if len(tensors) != form.tensors or len(rest) > len(names) or not set(kwargs) <= set(names):
        return None
    given = dict(zip(names, rest, strict=False)) | kwargs
    values = {name: plain_value(given.get(name, default)) for name, default in form.parameters.items()}
    return tensors, values


# What torch calls the first and the second tensor.
_FIRST, _SECOND = ("input", "self", "tensors"), ("other", "mat2", "exponent")


def take_piece(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Replace one result of split, chunk or unbind by a module that gives that piece of the tensor."""
    found = piece(node)
    if found is None:
        return False
    name, whole, module = found
    ir.note_replaced(node.all_input_nodes[0], node)
    become_call(gm, node, name, module, (whole,), {})
    return True


def follow_mode(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Replace a user's own stochastic depth by one that is known to do nothing in eval mode."""
    module = ir.module_of(node)
    assert module is not None
    names = ("DropPath", "StochasticDepth")
    if not type(module).__name__.endswith(names) or isinstance(module, ops.StochasticDepth) or len(node.args) != 1:
        return False
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        return False
    p = next((getattr(module, name) or 0.0 for name in ("drop_prob", "p") if hasattr(module, name)), None)
    if not isinstance(p, int | float):
        return False
    known = ops.StochasticDepth(float(p), getattr(module, "mode", "row"), getattr(module, "scale_by_keep", True))
    known.train(module.training)
    ir.set_module(gm, str(node.target), known)
    return True


def pass_on(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Let what reads a concatenation of one tensor read that tensor: it is no op, and asks for no grid of its own."""
    given = node.args[0] if node.args else node.kwargs.get("tensors")
    if not isinstance(given, list | tuple) or len(given) != 1 or not isinstance(given[0], fx.Node):
        return False
    ir.replace(node, given[0])
    return True


def drop_unread(gm: fx.GraphModule) -> bool:
    """Drop pieces that nothing reads, and calls whose pieces are all modules of their own; say if there were any."""
    before = len(gm.graph.nodes)
    for node in reversed(gm.graph.nodes):
        whole = node.args[0] if call_name(node) == "getitem" and node.args else node
        if isinstance(whole, fx.Node) and call_name(whole) in PIECES and not node.users:
            gm.graph.erase_node(node)
    gm.recompile()
    return len(gm.graph.nodes) < before


def _is_float(node: fx.Node) -> bool:
    """Say whether the node gives floats; where its type is not known, whether it may."""
    kind = ir.tensor_type(node)
    return not has_types(node.graph) if kind is None else kind.dtype.is_floating_point


def rules(constant: set[fx.Node]) -> tuple[Rule, ...]:
    """Return the rules that leave out what is computed from parameters alone: weights and tables, no activations."""
    return (
        Rule("stochastic_depth", Chain((Op((nn.Module,)),)), follow_mode),
        Rule("piece", Call((operator.getitem,)), take_piece),
        Rule("concat_of_one", Call(names("cat", "concat", "concatenate")), pass_on),
        *(Rule(form.name, Call(form.targets), partial(convert, form, constant)) for form in FORMS),
    )
