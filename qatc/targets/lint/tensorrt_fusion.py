"""TensorRT rules on the ops that one kernel computes: a weighted op, its epilogue, a residual Add."""

from collections.abc import Iterator

from qatc.targets.lint.graph import GraphView, Node
from qatc.targets.lint.qdq import (
    is_dequantized,
    is_q,
    is_quantized,
    operands,
    origin,
    readers,
    unquantized,
)

Violations = Iterator[tuple[Node, str]]

_AFFINE = frozenset({"BatchNormalization", "Cast", "Dropout", "Identity"})
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div"})
_ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "HardSwish", "Gelu", "Sigmoid", "Tanh"})
_GATES = _ACTIVATIONS | {"HardSigmoid", "Softplus", "Erf"}
_POOLS = frozenset({"GlobalAveragePool", "ReduceMean"})
_CLAMPS = frozenset({"Relu", "Clip"})


def fused_operator(view: GraphView, tensor: str, *, past_activations: bool = False) -> Node | None:
    """Return the weighted op whose kernel makes this float tensor, looking past BatchNorm, bias and constant factors.

    With ``past_activations`` also past its activation function, SiLU included.
    """
    while (node := view.producer(tensor)) is not None:
        if operands(view, node):
            return node
        before = _pointwise_source(view, node) if past_activations else _affine_source(view, node)
        if before is None:
            return None
        tensor = before
    return None


def _affine_source(view: GraphView, node: Node) -> str | None:
    """Return the operand of a node that only scales and shifts, by constants."""
    return node.input(0) if node.op in _AFFINE else _variable_operand(view, node)


def _variable_operand(view: GraphView, node: Node) -> str | None:
    """Return the operand that is computed, when an arithmetic op combines it with a constant."""
    if node.op not in _ARITHMETIC or len(node.inputs) != 2:
        return None
    variable = [tensor for tensor in node.inputs if not view.is_constant(tensor)]
    return variable[0] if len(variable) == 1 else None


def self_gated(view: GraphView, node: Node) -> str | None:
    """Return ``x`` of ``x * f(x)`` with a pointwise ``f`` (SiLU, HardSwish, Mish, GELU), seen past Q/DQ."""
    if node.op != "Mul" or len(node.inputs) != 2:
        return None
    first, second = (unquantized(view, tensor) for tensor in node.inputs)
    for root, gate in ((first, second), (second, first)):
        while gate != root and (maker := view.producer(gate)) is not None:
            before = maker.input(0) if maker.op in _GATES else _variable_operand(view, maker)
            if before is None:
                break
            gate = unquantized(view, before)
        if gate == root and first != second:
            return root
    return None


def _silu_gate(view: GraphView, node: Node) -> Node | None:
    """Return the Sigmoid of ``x * sigmoid(x)``, seen past Q/DQ."""
    root = self_gated(view, node)
    makers = [view.producer(unquantized(view, tensor)) for tensor in node.inputs]
    gates = [gate for gate in makers if gate is not None and gate.op == "Sigmoid"]
    return next((gate for gate in gates if root is not None and unquantized(view, gate.input(0)) == root), None)


def epilogues_are_whole(view: GraphView) -> Violations:
    """TRT10: no Q/DQ between a weighted op and the end of its epilogue.

    The epilogue is a MatMul's bias, BatchNorm, residual Add, then Relu, Clip or SiLU; a pair inside splits the
    fused kernel (TensorRT docs, explicit quantization; tensorflow-quantization custom cases). A pair that something
    else reads too is no loss: the tensor is needed anyway.
    """
    for q in filter(is_q, view.nodes):
        tensor = q.input(0)
        made = fused_operator(view, tensor)
        if (made is None and not adds_to_product(view, tensor)) or view.escapes(tensor):
            continue
        behind = readers(view, q.output)
        if set(behind) != set(readers(view, tensor)) or any(tensor in node.inputs for node in behind):
            continue
        end = behind[0] if behind else None
        if len(behind) == 1 and end is not None and _continues(view, end, made):
            yield q, f"splits the kernel of {_of(made)} before '{end.name}'; move the Q/DQ behind it"
        elif made is not None and (mul := _silu_of(view, behind)) is not None:
            yield q, f"splits '{made.name}' from its SiLU; move the Q/DQ behind '{mul.name}'"


def _of(made: Node | None) -> str:
    return f"'{made.name}'" if made is not None else "a residual Add"


def _continues(view: GraphView, node: Node, made: Node | None) -> bool:
    """Whether a kernel could go on with this node if there was no Q/DQ before it."""
    if node.op in _CLAMPS or made is None:
        return node.op in _CLAMPS
    if node.op == "Add" and made.op == "MatMul" and (variable := _variable_operand(view, node)) is not None:
        dims = view.dims(next(tensor for tensor in node.inputs if tensor != variable))
        return dims is not None and len(dims) == 1 and dims[0] != 1
    return node.op == "BatchNormalization"


def adds_to_product(view: GraphView, tensor: str) -> bool:
    """Whether the tensor is the sum of a weighted op's raw result and another computed tensor."""
    node = view.producer(tensor)
    if node is None or node.op != "Add" or any(view.is_constant(operand) for operand in node.inputs):
        return False
    return any(fused_operator(view, operand) is not None for operand in node.inputs)


def _silu_of(view: GraphView, nodes: list[Node]) -> Node | None:
    for mul in nodes:
        if (gate := _silu_gate(view, mul)) is not None and set(nodes) == {mul, gate}:
            return mul
    return None


def residual_adds_quantize_the_skip(view: GraphView) -> Violations:
    """TRT11: a residual Add reads the skip from a DQ and the other side raw from the op that is fused with it.

    A raw skip makes that op's output float, two DQs make the Add a kernel of its own (TensorRT docs, explicit
    quantization; ModelOpt build_non_residual_input_map; tensorflow-quantization ResNet case).
    """
    for node in view.nodes:
        fused = residual_operator(view, node)
        if fused is None:
            continue
        first, second = node.inputs
        dequantized = [tensor for tensor in node.inputs if is_dequantized(view, tensor)]
        if len(dequantized) == 2:
            yield node, f"both inputs are dequantized; remove the Q/DQ between '{fused.name}' and the Add"
        elif not dequantized:
            yield node, f"the skip is not quantized, so '{fused.name}' writes float; put a Q/DQ on the skip only"
        else:
            skip = dequantized[0]
            raw = second if skip == first else first
            maker = fused_operator(view, raw, past_activations=True)
            if maker is None or maker in view.upstream(skip):
                yield node, f"the Q/DQ stands on the side of '{fused.name}'; move it to the skip"


def residual_operator(view: GraphView, node: Node) -> Node | None:
    """Return the quantized op that a residual Add is best fused with, ``None`` when the node is no such Add.

    Where both sides have one, it is that at the end of the longer path (ModelOpt build_non_residual_input_map).
    """
    if node.op != "Add" or not _adds_equal_shapes(view, node):
        return None
    first, second = node.inputs
    sides = [_fusible_side(view, first, second), _fusible_side(view, second, first)]
    fusible = [side for side in sides if side is not None]
    return max(fusible, key=lambda side: len(view.upstream(side.output)), default=None)


def _adds_equal_shapes(view: GraphView, node: Node) -> bool:
    """Whether two different computed tensors of, as far as known, one shape are added."""
    if len(node.inputs) != 2 or len(set(node.inputs)) != 2 or any(view.is_constant(tensor) for tensor in node.inputs):
        return False
    first, second = (view.dims(tensor) for tensor in node.inputs)
    if first is None or second is None:
        return True
    if len(first) != len(second):
        return False
    return all(None in pair or pair[0] == pair[1] for pair in zip(first, second, strict=True))


def _fusible_side(view: GraphView, tensor: str, other: str) -> Node | None:
    """Return the quantized convolution that could compute the Add in its own kernel: the other operand is ready before.

    ModelOpt counts convolutions alone: its own files leave the skips of a transformer's matrix products raw.
    """
    made = fused_operator(view, unquantized(view, tensor))
    if made is None or made.op not in {"Conv", "ConvTranspose"} or made in view.upstream(other):
        return None
    found = operands(view, made)
    return made if found is not None and is_dequantized(view, found.data) else None


def gates_are_quantized(view: GraphView) -> Violations:
    """TRT17: the Mul of a squeeze-and-excite block reads two DQs; a convolution's SiLU has no Q/DQ inside.

    tensorflow-quantization's EfficientNet case and ModelOpt's fusible Mul patterns.
    """
    for node in view.nodes:
        if node.op != "Mul" or len(node.inputs) != 2 or any(view.is_constant(tensor) for tensor in node.inputs):
            continue
        gate = _silu_gate(view, node)
        if gate is not None:
            root = unquantized(view, gate.input(0))
            inside = [tensor for tensor in (*node.inputs, gate.input(0)) if unquantized(view, tensor) != tensor]
            if inside and (made := fused_operator(view, root)) is not None:
                yield node, f"Q/DQ inside the SiLU of '{made.name}'; keep one pair, behind this Mul"
        elif _is_excited(view, node) and not all(is_dequantized(view, tensor) for tensor in node.inputs):
            yield node, "a squeeze-and-excite Mul reads a float operand; put a Q/DQ on both of its inputs"


def _is_excited(view: GraphView, mul: Node) -> bool:
    """Whether a Mul scales x by a quantized gate that is pooled from x."""
    for tensor, other in (mul.inputs, mul.inputs[::-1]):
        gate = view.producer(origin(view, other))
        if gate is not None and gate.op in {"Sigmoid", "HardSigmoid"}:
            excite = fused_operator(view, origin(view, gate.input(0)))
            if excite is not None and is_quantized(view, excite) and _pools(view, excite, origin(view, tensor)):
                return True
    return False


def _pools(view: GraphView, node: Node, root: str) -> bool:
    """Whether the node's data is a pooled ``root``, behind weighted ops and activations."""
    maker: Node | None = node
    while maker is not None and maker.op not in _POOLS:
        found = operands(view, maker)
        before = found.data if found is not None else _pointwise_source(view, maker)
        maker = view.producer(origin(view, before)) if before is not None else None
    return maker is not None and origin(view, maker.input(0)) == root


def _pointwise_source(view: GraphView, node: Node) -> str | None:
    """Return the only computed operand of a node that works value by value."""
    if node.op in _ACTIVATIONS:
        return node.input(0)
    return _affine_source(view, node) or self_gated(view, node)


def norms_follow_their_convolution(view: GraphView) -> Violations:
    """TRT23: a BatchNorm is folded, or follows its convolution with no Q between.

    TensorRT folds Conv-BatchNorm itself, and cannot past a Q (TensorRT docs, explicit quantization; figure 5).
    """
    for node in view.nodes:
        source = unquantized(view, node.input(0))
        if node.op != "BatchNormalization" or source == node.input(0):
            continue
        if (made := fused_operator(view, source)) is not None:
            yield node, f"a Q/DQ parts it from '{made.name}'; fold the BatchNorm or move the pair behind it"
