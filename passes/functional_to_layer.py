"""Turn functions with a weight among their arguments into layers that the graph gives weight and bias."""

import operator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import fx

from qatc import ir
from qatc.calls import contains_node
from qatc.constants import constants, value_of
from qatc.invariants import ONE_CALL_SITE, Invariant
from qatc.modules.forms.form import plain_value
from qatc.modules.layer_forms import LAYER_FORMS, LayerForm
from qatc.pipeline import Pass
from qatc.rewrite import Call, Rule, apply


@dataclass(frozen=True)
class FunctionalToLayer(Pass):
    """F.conv2d, F.linear, torch.addmm and their like become layers without parameters, given weight and bias.

    The weight may be a parameter by any name, a part of one, or computed from parameters; it keeps its place and name.
    Where it is computed from data, as in a conditional convolution, the call is left, and reported; a bias that is, is
    added behind the layer. A matrix product with a constant on its right is a layer too.
    """

    name: ClassVar[str] = "functional-to-layer"
    requires: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE,)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        known = constants(gm.graph)
        rules = [Rule(form.name, Call(form.targets), partial(convert, form, known)) for form in LAYER_FORMS]
        return bool(apply(gm, rules))


def convert(form: LayerForm, known: set[fx.Node], gm: fx.GraphModule, node: fx.Node) -> bool:
    """Replace the call by the form's layer if its weight is computed from parameters alone."""
    options = bind(form, node)
    if options is None:
        return False
    x, weight = options.pop(form.x), options.pop(form.weight)
    bias = options.pop(form.bias) if form.bias is not None else None
    if node in known or not isinstance(x, fx.Node) or not isinstance(weight, fx.Node):
        return False
    computed_bias = bias if isinstance(bias, fx.Node) and bias not in known else None
    if weight not in known or (computed_bias is not None and not form.strict):
        if form.strict:
            ir.set_why_float(node, "its weight is computed from data")
        return False
    shape = shape_of(gm, weight)
    own_bias = None if computed_bias is not None else bias
    if contains_node(tuple(options.values())) or (own_bias is not None and len(shape_of(gm, own_bias)) != 1):
        return False
    layer = form.layer(shape[::-1] if form.transposed else shape, options)
    if layer is None:
        return False
    if form.transposed:
        weight = transposed(gm, weight, node)
        known.add(weight)
    path = ir.free_path(gm, ir.scoped(node, form.name))
    ir.set_module(gm, path, layer.train(gm.training))
    given = {"weight": weight} | ({} if own_bias is None else {"bias": own_bias})
    # The source stays the user's module: rules of a configuration call the layer by its name.
    node.op, node.target, node.args, node.kwargs = "call_module", path, (x,), given
    if computed_bias is not None:
        add_behind(gm, node, computed_bias, len(shape) - 2)
    return True


def add_behind(gm: fx.GraphModule, node: fx.Node, bias: fx.Node, positions: int) -> None:
    """Add a bias per channel to what the layer gives; its channels have that many dimensions behind them."""
    shaped = bias
    with gm.graph.inserting_after(node):
        total = gm.graph.call_function(operator.add, (node, bias))
    ir.inherit(total, node)
    node.replace_all_uses_with(total, lambda user: user is not total)
    if positions:
        with gm.graph.inserting_before(total):
            shaped = gm.graph.call_method("reshape", (bias, (-1, *[1] * positions)))
        ir.inherit(shaped, bias)
        ir.set_source(shaped, ir.source_of(node))
        kind = ir.tensor_type(bias)
        ir.set_tensor_type(shaped, kind and ir.TensorType(kind.dtype, (*kind.shape, *[1] * positions)))
        total.replace_input_with(bias, shaped)


def bind(form: LayerForm, node: fx.Node) -> dict[str, Any] | None:
    """Return every argument of the call by name; None where it does not fit the form."""
    names = list(form.arguments)
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    if len(node.args) > len(names) or not set(given) <= set(names):
        return None
    return {name: plain_value(given.get(name, default)) for name, default in form.arguments.items()}


def shape_of(gm: fx.GraphModule, constant: fx.Node) -> tuple[int, ...]:
    """Return the shape of a constant."""
    kind = ir.tensor_type(constant)
    known = value_of(gm, constant).shape if kind is None or None in kind.shape else kind.shape
    return tuple(size for size in known if size is not None)


def transposed(gm: fx.GraphModule, weight: fx.Node, before: fx.Node) -> fx.Node:
    """Return a node that gives the matrix transposed."""
    with gm.graph.inserting_before(before):
        node = gm.graph.call_method("t", (weight,))
    ir.set_source(node, ir.source_of(before))
    kind = ir.tensor_type(weight)
    ir.set_tensor_type(node, None if kind is None else ir.TensorType(kind.dtype, kind.shape[::-1]))
    return node
