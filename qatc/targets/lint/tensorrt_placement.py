"""TensorRT rules on where Q/DQ pairs stand: which operands, which tensors, with which scales."""

from collections.abc import Iterator
from math import prod

from qatc.targets.lint.graph import Dims, GraphView, Node
from qatc.targets.lint.qdq import (
    DEQUANTIZE,
    PASSES,
    QUANTIZE,
    is_dequantized,
    is_dq,
    is_q,
    is_quantized,
    readers,
    unquantized,
)
from qatc.targets.lint.tensorrt_fusion import adds_to_product, fused_operator, residual_operator, self_gated

Violations = Iterator[tuple[Node, str]]

_RESAMPLERS = frozenset({"AveragePool", "GlobalAveragePool", "Resize"})
_POINTWISE = frozenset(
    {"Add", "BatchNormalization", "Clip", "Div", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mul"}
    | {"PRelu", "Relu", "Sigmoid", "Sub", "Tanh"}
)
_FLOAT_OPS = frozenset(
    {"Gelu", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Relu", "Sigmoid", "Softmax"}
)
# What exporters write for LayerNorm and GELU when the opset has neither; the last ops are affine and optional.
_FLOAT_CHAINS = (
    ("LayerNorm", ("ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div")),
    ("GELU", ("Div", "Erf", "Add", "Mul")),
    ("GELU", ("Mul", "Erf", "Add", "Mul")),
)
_LAYOUT = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def integer_inputs_lead_to_integer_outputs(view: GraphView) -> Violations:
    """TRT14: a pool, Resize, or unfused Add or Mul with a DQ input has only such inputs, and a Q behind.

    An op without weights reads int8 only if it writes int8 (TensorRT docs, explicit quantization; ModelOpt).
    """
    for node in view.nodes:
        if node.op in _RESAMPLERS:
            if is_dequantized(view, node.input(0)) and not _reaches_q(view, node, PASSES):
                yield node, "reads a DQ but no Q follows, so it runs in float; put a Q/DQ behind it or none before"
        elif node.op in {"Add", "Mul"} and len(node.inputs) == 2 and self_gated(view, node) is None:
            if any(view.is_constant(tensor) for tensor in node.inputs):
                continue
            raw = [tensor for tensor in node.inputs if not is_dequantized(view, tensor)]
            if len(raw) == 1:
                # An Add in a kernel with a weighted op is TRT11's to judge.
                source = view.source(raw[0], PASSES)
                fused = node.op == "Add" and fused_operator(view, source, past_activations=True) is not None
                if not fused and residual_operator(view, node) is None:
                    yield node, f"reads a DQ and float '{raw[0]}', so it runs in float; quantize both inputs or neither"
            elif not raw and not _reaches_q(view, node, PASSES | _POINTWISE | {"ReduceMean"}):
                yield node, "reads two DQs but no Q follows, so it runs in float; put a Q/DQ behind it or none before"


def _reaches_q(view: GraphView, node: Node, through: frozenset[str]) -> bool:
    """Whether some reader quantizes the result; a reader inside a control flow body may."""
    captured = view.escapes(node.output) and node.output not in view.outputs
    return captured or any(map(is_q, view.sinks(node.output, through | {"Concat"})))


def float_ops_have_no_pair(view: GraphView) -> Violations:
    """TRT16: Softmax, LayerNorm, GELU, InstanceNorm and lone activations have no Q/DQ of their own.

    They have no int8 kernels worth a pair; ModelOpt takes them out of its registry (configure_ort). A pair that
    another op reads too is not theirs.
    """
    chains = [match for node in view.nodes for match in float_chains(view, node)]
    for q in filter(is_q, view.nodes):
        behind = set(readers(view, q.output))
        if not behind or view.is_constant(q.input(0)):
            continue
        lone = {node for node in behind if node.op in _FLOAT_OPS and not _has_use_of_codes(view, node)}
        if lone == behind:
            yield q, f"quantizes only for {', '.join(sorted(f'{n.op} {n.name!r}' for n in lone))}; remove the pair"
            continue
        for kind, chain in chains:
            # The chain's last node is left out: what follows it is the next op's input.
            inside = view.producer(unquantized(view, q.input(0))) in chain[:-1]
            if behind <= set(chain) and (inside or chain[0] in behind):
                yield q, f"stands in the {kind} that starts at '{chain[0].name}'; remove the pair"
                break


def _has_use_of_codes(view: GraphView, node: Node) -> bool:
    """Whether the Q/DQ of a float op is not its own: TRT10 speaks of it, or it lets the kernel before write int8."""
    source = view.source(unquantized(view, node.input(0)), PASSES)
    if node.op == "LayerNormalization":
        # ModelOpt 0.47 adds this pair on purpose (find_conv_to_layernorm_nodes), so it is no mistake.
        return fused_operator(view, source, past_activations=True) is not None or adds_to_product(view, source)
    gated = any(self_gated(view, reader) is not None for reader in view.consumers(node.output))
    in_epilogue = node.op == "Relu" or (node.op == "Sigmoid" and gated)
    return in_epilogue and fused_operator(view, source) is not None


def float_chains(view: GraphView, start: Node) -> Iterator[tuple[str, list[Node]]]:
    """Kind and nodes of each LayerNorm or GELU that is written out from a node on."""
    for kind, ops in _FLOAT_CHAINS:
        if start.op == ops[0] and (chain := _follow(view, start, ops[1:])) is not None:
            yield kind, chain


def _follow(view: GraphView, node: Node, ops: tuple[str, ...]) -> list[Node] | None:
    """Return the nodes of a path with these ops, seen past Q/DQ and Cast."""
    if not ops:
        return [node]
    for reader in view.sinks(node.output, QUANTIZE | DEQUANTIZE | {"Cast"}):
        if reader.op == ops[0] and (rest := _follow(view, reader, ops[1:])) is not None:
            return [node, *rest]
    return None


def quantized_convolutions_have_kernels(view: GraphView) -> Violations:
    """TRT18: a quantized Conv has channel counts that int8 kernels exist for.

    ModelOpt leaves the others float because they are slow or fail to build (find_nodes_from_convs_to_exclude).
    """
    for node in view.nodes:
        if node.op != "Conv" or not is_quantized(view, node):
            continue
        dims = view.dims(node.input(1)) or view.dims(view.source(node.input(1), DEQUANTIZE | QUANTIZE))
        if dims is None or len(dims) < 3 or None in dims:
            continue
        channels = [dim for dim in dims[:2] if dim is not None]
        first_layer = unquantized(view, node.input(0)) in view.inputs
        if not _has_int8_kernel(channels, dims[2:], node.integer("group") or 1, first_layer):
            yield node, f"no good int8 kernel for {channels[0]} outputs of {channels[1]} inputs a group; leave it float"


def _has_int8_kernel(channels: list[int], kernel: Dims, groups: int, first_layer: bool) -> bool:
    if min(channels) >= 16:
        return True
    if groups > 1:
        return channels[0] % 8 == 0 and all(size is not None and size >= 3 for size in kernel)
    aligned = any(count % 8 == 0 for count in channels)
    return aligned and len(set(kernel)) == 1 and (first_layer or max(channels) >= 16)


def quantized_products_are_matrices(view: GraphView) -> Violations:
    """TRT19: a quantized Gemm or MatMul multiplies more than one row by more than one column.

    A vector product waits for memory and gains nothing from int8 (ModelOpt find_nodes_from_matmul_to_exclude).
    """
    for node in view.nodes:
        if node.op not in {"Gemm", "MatMul"} or not all(is_dequantized(view, tensor) for tensor in node.inputs[:2]):
            continue
        dims = view.dims(node.output)
        if dims is None or not dims:
            continue
        # A constant right side is shared by the batch, whose dimensions then are rows too.
        rows = dims[:-1] if view.is_constant(node.input(1)) else dims[-2:-1]
        known = [dim for dim in rows if dim is not None]
        if dims[-1] == 1 or (len(known) == len(rows) and prod(known) == 1):
            yield node, f"the product has shape {dims}, so it is a vector product; leave it float"


def outputs_are_not_quantized(view: GraphView) -> Violations:
    """TRT20: no Q/DQ between the last op and a graph output.

    The last kernel then writes high precision itself (ModelOpt OpTypesToExcludeOutputQuantization).
    """
    for output in dict.fromkeys(view.outputs):
        maker = view.producer(output)
        if is_q(maker):
            yield maker, f"is graph output '{output}'; remove the Q, the output stays float"
            continue
        dq = view.producer(view.source(output, _LAYOUT))
        q = view.producer(dq.input(0)) if is_dq(dq) else None
        # Behind a reshape the pair may be there for another reader of the same tensor.
        if is_q(q) and (dq is maker or all(node.op in _LAYOUT for node in readers(view, q.output))):
            yield q, f"quantizes graph output '{output}'; remove the pair, the output stays float"
