"""Take apart what is several ops in one, so that each has its own quantizers."""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from torch import fx, nn

from qatc import ir
from qatc.calls import call_name
from qatc.expand import Tracer, expand, proxied
from qatc.invariants import NO_INPLACE, ONE_CALL_SITE, Invariant
from qatc.modules.forms.attention import multihead_attention
from qatc.modules.forms.expansions import EXPANSIONS
from qatc.pipeline import Pass
from qatc.rewrite import Call, Chain, Op, Rule, apply


@dataclass(frozen=True)
class DecomposeComposites(Pass):
    """Attention, einsum and their like become products, sums and layers."""

    name: ClassVar[str] = "decompose-composites"
    requires: ClassVar[tuple[Invariant, ...]] = (ONE_CALL_SITE, NO_INPLACE)

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed."""
        return bool(apply(gm, RULES))


def take_attention_apart(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Replace a call of `nn.MultiheadAttention` by its products, so that each has its own quantizers."""
    module = ir.module_of(node, nn.MultiheadAttention)
    assert module is not None
    tracer = Tracer(gm, node)
    args, kwargs = proxied(tracer, (node.args, dict(node.kwargs)))
    results = multihead_attention(module, str(node.target), *args, **kwargs)
    parts = tuple(None if r is None else r.node for r in results)

    def with_parts(n: fx.Node) -> Any:
        return parts if n is node else n

    for user in list(node.users):
        index = user.args[1] if call_name(user) == "getitem" else None
        part = parts[index] if isinstance(index, int) and index in (0, 1, -1, -2) else None
        if part is not None:
            ir.note_replaced(user, part)
            user.replace_all_uses_with(part)
        if not user.users and call_name(user) == "getitem":
            gm.graph.erase_node(user)
        else:
            user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), with_parts)
    ir.note_replaced(node, results[0].node)
    gm.graph.erase_node(node)
    for made in reversed(tracer.made):  # weights that nothing reads
        if not made.users:
            gm.graph.erase_node(made)
    return True


RULES = (
    Rule("multihead_attention", Chain((Op((nn.MultiheadAttention,)),)), take_attention_apart),
    *(Rule(e.name, Call(e.targets), partial(expand, e.function)) for e in EXPANSIONS),
)
