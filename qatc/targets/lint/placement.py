"""Rules on where Q/DQ pairs stand that several targets share."""

from collections.abc import Collection

from qatc.targets.lint.graph import GraphView, Node
from qatc.targets.lint.grids import is_power_of_two
from qatc.targets.lint.qdq import (
    MOVES,
    PASSES,
    code_type,
    dequantizer,
    is_dequantized,
    is_dq,
    is_four_bit,
    is_q,
    operands,
    same_grid,
    same_scale,
    scale_of,
    scale_size,
    zero_point_of,
)
from qatc.targets.lint.rule import Violations
from qatc.targets.lint.ways import dequantizer_of, way_of


def weighted_ops_are_quantized_whole(view: GraphView) -> Violations:
    """A weighted op dequantizes its data and its weight, or neither: half-quantized it runs in float.

    Weight-only 4 bits are meant to: there are matrix products for them.
    """
    for node in view.nodes:
        found = operands(view, node)
        if found is None:
            continue
        data, weight = is_dequantized(view, found.data), is_dequantized(view, found.weight)
        if data and not weight:
            yield node, "data comes from a DQ, the weight does not; quantize the weight too"
        elif weight and not data and not view.is_constant(found.data):
            dq = dequantizer(view, found.weight)
            if dq is None or not is_four_bit(code_type(view, dq)):
                yield node, "the weight comes from a DQ, data does not; put a Q/DQ on the data input"


def one_scale_per_tensor(view: GraphView) -> Violations:
    """All Q on one float tensor have the same scale, bit by bit."""
    first: dict[str, Node] = {}
    for q in filter(is_q, view.nodes):
        other = first.setdefault(q.input(0), q)
        if same_scale(view, q, other) is False:
            yield q, f"'{q.input(0)}' is quantized with another scale by '{other.name}'; share one Q/DQ pair"


def moves_keep_the_grid(view: GraphView, *, moves: frozenset[str] = MOVES) -> Violations:
    """Ops that only move values have no grid of their own: the Q and DQ that surround them agree.

    They commute with Q/DQ, so equal pairs vanish and unequal ones requantize.
    """
    for q in filter(is_q, view.nodes):
        dq = dequantizer(view, q.input(0))
        mover = view.producer(view.source(q.input(0), PASSES - moves))
        if dq is None or mover is None or mover.op not in moves or scale_size(view, q) != 1:
            continue
        if scale_size(view, dq) == 1 and same_grid(view, dq, q) is False:
            yield mover, f"'{dq.name}' before and '{q.name}' behind have different scales or zero points; share them"


def concats_share_a_scale(view: GraphView) -> Violations:
    """The scales before a quantized Concat are the scale behind it; other scales cost a requantization an input."""
    for node in view.nodes:
        behind = next(filter(is_q, view.sinks(node.output, PASSES)), None) if node.op == "Concat" else None
        if behind is None:
            continue
        before = [dq for tensor in node.inputs if (dq := dequantizer(view, tensor)) is not None]
        if odd := [dq.name for dq in before if same_scale(view, dq, behind) is False]:
            yield node, f"scale of {', '.join(odd)} is not that of '{behind.name}'; give them one shared scale"


def pairs_are_complete(view: GraphView, *, on_codes: Collection[str] = (), codes_come_in: bool = False) -> Violations:
    """A Q feeds only DQs, a DQ of an activation comes from a Q, and no pair repeats the one before.

    `on_codes` are operators that the runtime has on codes, so that they may stand between Q and DQ; `codes_come_in`
    says whether a graph may have codes for its inputs.
    """
    for node in view.nodes:
        if (is_q(node) or is_dq(node)) and not view.consumers(node.output) and not view.escapes(node.output):
            yield node, "nothing reads its result; remove it"
        if is_q(node):
            readers = view.sinks(node.output, on_codes)
            if strangers := [reader.name for reader in readers if not is_dq(reader)]:
                yield node, f"its codes go to {', '.join(strangers)}; let only a DQ read them"
            dq = view.producer(node.input(0))
            works_on_codes = any(reader.op in on_codes for reader in view.consumers(node.output))
            if is_dq(dq) and not works_on_codes and same_grid(view, dq, node) and _axes_agree(view, dq, node):
                yield node, f"repeats the parameters of '{dq.name}' right before it; remove one pair"
        elif is_dq(node) and not view.is_constant(node.input(0)):
            codes = view.source(node.input(0), on_codes)
            maker = view.producer(codes)
            # Operators outside ONNX may make codes in ways that nobody here knows.
            known = codes in view.inputs and not codes_come_in if maker is None else "::" not in maker.op
            if known and not is_q(maker):
                yield node, f"dequantizes '{codes}', which no Q makes; quantize it with a Q"


def _axes_agree(view: GraphView, dq: Node, q: Node) -> bool:
    return scale_size(view, q) == 1 or dq.integer("axis") == q.integer("axis")


def odd_zero_points_break_no_ties(view: GraphView, *, of: Collection[str]) -> Violations:
    """With powers of two the operators `of` write no codes of an odd zero point.

    Their kernels add the zero point before they round, which sends ties, frequent among powers of two, the other way.
    """
    for node in view.nodes:
        if node.op not in of:
            continue
        tensors = (
            node.inputs if node.op in {"Add", "Concat", "Mul"} else node.inputs[: 2 if operands(view, node) else 1]
        )
        before = [dequantizer_of(view, tensor) for tensor in tensors]
        quantizers = way_of(view, node).quantizers
        if not quantizers or None in before:
            continue
        zero = zero_point_of(view, quantizers[0])
        scales = [scale_of(view, pair) for pair in (*before, quantizers[0]) if pair is not None]
        exact = all(scale is not None and is_power_of_two(scale) for scale in scales)
        if exact and zero is not None and (zero % 2).any():
            yield node, f"ties are rounded the other way with zero point {zero[0]}; take an even one"
