"""Rewrite rules as data, a (pattern, function) each, and the one driver that applies them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from qatc import ir

Match = tuple[fx.Node | None, ...]


@dataclass(frozen=True)
class Op:
    """A module of one of these types; `optional` ones may be absent."""

    types: tuple[type[nn.Module], ...]
    optional: bool = False


def optional(*types: type[nn.Module]) -> Op:
    """Return a link of a chain that may be absent."""
    return Op(types, optional=True)


@dataclass(frozen=True)
class Chain:
    """Modules in a row, each the only reader of the one before; a match has a node, or None, per link."""

    links: tuple[Op, ...]

    def match(self, node: fx.Node) -> Match | None:
        """Return the longest match that begins at `node`."""
        if ir.module_of(node, self.links[0].types) is None:
            return None
        found: list[fx.Node | None] = [node]
        last = node
        for link in self.links[1:]:
            following = ir.only_user(last)
            if following is not None and ir.module_of(following, link.types) and following.args[:1] == (last,):
                found.append(following)
                last = following
            elif link.optional:
                found.append(None)
            else:
                return None
        return tuple(found)


@dataclass(frozen=True)
class Call:
    """A call of one of these functions, or of the tensor methods of these names."""

    targets: tuple[Any, ...]

    def match(self, node: fx.Node) -> Match | None:
        """Return the node itself if it is such a call."""
        if node.op not in ("call_function", "call_method") or node.target not in self.targets:
            return None
        return (node,)


@dataclass(frozen=True)
class Rule:
    """`rewrite(gm, *matched nodes)` changes the graph and returns True, or declines and returns False."""

    name: str
    pattern: Chain | Call
    rewrite: Callable[..., bool]


def apply(gm: fx.GraphModule, rules: Sequence[Rule]) -> Counter[str]:
    """Apply each rule wherever it matches, in graph order, first rule first; return how often each did."""
    hits: Counter[str] = Counter()
    by_target: dict[Any, list[Rule]] = {}
    chains = [rule for rule in rules if isinstance(rule.pattern, Chain)]
    for rule in rules:
        if isinstance(rule.pattern, Call):
            for target in rule.pattern.targets:
                by_target.setdefault(target, []).append(rule)
    for node in list(gm.graph.nodes):
        if node._erased:
            continue
        for rule in chains if node.op == "call_module" else by_target.get(node.target, []):
            match = rule.pattern.match(node)
            if match is not None and rule.rewrite(gm, *match):
                hits[rule.name] += 1
                break
    if hits:
        ir.prune(gm)
    return hits
