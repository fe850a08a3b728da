"""ONNX Runtime rules on which ops get integer kernels: what its QDQ transformers select, and what keeps an op in float.

Sources: onnxruntime core/optimizer/qdq_transformer (selectors, qdq_propagation, clip_quantizelinear, qdq_s8_to_u8);
each rule was also read off optimized graphs of 1.31 (tests/targets/test_lint_onnxruntime.py does it again).
"""

from collections.abc import Iterator

import numpy as np
from onnx import TensorProto

from qatc.targets.lint.graph import GraphView, Node
from qatc.targets.lint.qdq import (
    biased,
    code_type,
    is_dequantized,
    is_dq,
    is_q,
    operands,
    pairs,
    same_grid,
    scale_of,
    zero_point_of,
)
from qatc.targets.lint.rule import Violations
from qatc.targets.lint.ways import CLAMPS, LOOKED_THROUGH, dequantizer_of, way_of

# They move codes too, but only where the same Q/DQ stands behind them once more.
_MOVES_BETWEEN = frozenset({"DepthToSpace", "Expand", "Flatten", "Gather", "ReduceMax", "ReduceMin", "Split", "Tile"})
_PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
_ELEMENTWISE = frozenset({"Add", "Concat", "Mul"})
# Their integer kernels write codes, so they need a Q behind; QGemm and MatMulIntegerToFloat write floats as well.
_WRITES_CODES = _ELEMENTWISE | {"AveragePool", "Conv", "GlobalAveragePool", "LeakyRelu", "Sigmoid"}
_INTEGER = _WRITES_CODES | _PRODUCTS | CLAMPS | LOOKED_THROUGH | _MOVES_BETWEEN | {"Softmax", "GatherElements"}
_OTHER_FORM = {
    "BatchNormalization": "fold it into the convolution in front, or write a depthwise Conv",
    "ConvTranspose": "write it as a Conv, DepthToSpace and Slice",
    "GlobalMaxPool": "write ReduceMax, with the same Q/DQ on both sides",
    "Pad": "pad in the Conv behind it, or pad codes between Q and DQ",
    "ReduceMean": "write GlobalAveragePool",
}


def is_integer_product(view: GraphView, node: Node) -> bool:
    """Whether a Conv, Gemm or MatMul multiplies codes by codes."""
    if node.op not in _PRODUCTS:
        return False
    return all(dequantizer_of(view, tensor) is not None for tensor in node.inputs[:2]) and len(node.inputs) > 1


def _reads_codes(view: GraphView, node: Node) -> bool:
    """Whether all that an op without weights reads comes from DQs."""
    tensors = node.inputs if node.op in _ELEMENTWISE else node.inputs[:1]
    return bool(tensors) and all(dequantizer_of(view, tensor) is not None for tensor in tensors)


def scales_are_float32(view: GraphView) -> Violations:
    """ORT23: scales are float32: behind the casts of another type no kernel is selected."""
    half = [node for node in pairs(view) if view.dtype(node.input(1)) in {TensorProto.FLOAT16, TensorProto.BFLOAT16}]
    if half:
        yield half[0], f"{len(half)} Q/DQ with scales of 16 bits: all around them runs in float; take float32 there"


def products_have_integer_form(view: GraphView) -> Violations:
    """ORT09: a product reads data and weight from DQs that the selectors see, and is no more than a product."""
    for node in view.nodes:
        found = operands(view, node)
        if found is None or node.op not in _PRODUCTS:
            continue
        data, weight = (dequantizer_of(view, tensor) for tensor in found)
        if data is None and weight is not None and not view.is_constant(found.data):
            if is_dequantized(view, found.data):
                between = view.producer(view.source(found.data, LOOKED_THROUGH))
                name = between.name if between is not None else found.data
                yield node, f"'{name}' stands between it and the DQ; put the same Q/DQ behind '{name}' once more"
            else:
                yield node, "the weight comes from a DQ, data does not; put a Q/DQ on the data input"
        elif data is not None and weight is None and (node.op == "MatMul" or not way_of(view, node).quantizers):
            yield node, "data comes from a DQ, the weight does not; quantize the weight too"
        elif data is not None and weight is not None and node.op == "Gemm":
            if any(node.attributes.get(name, 1.0) != 1.0 for name in ("alpha", "beta")):
                yield node, "alpha or beta is not 1, which QGemm does not have; put it into the weight's scale"
            elif node.input(2) and dequantizer_of(view, node.input(2)) is None and not way_of(view, node).quantizers:
                yield node, "a float bias and no Q behind keep it in float; store the bias as int32 with a DQ"


def results_go_to_one_grid(view: GraphView) -> Violations:
    """ORT10: what an integer kernel computes goes to Qs of one grid alone, past a ReLU or clip at most."""
    for node in view.nodes:
        quantized = is_integer_product(view, node) if node.op == "Conv" else _reads_codes(view, node)
        if node.op not in _WRITES_CODES or not quantized or _is_bias_add(view, node):
            continue
        way = way_of(view, node)
        if way.problem:
            yield node, f"{way.problem}, so it runs in float; give it one Q that every reader is behind"
        elif any(same_grid(view, way.quantizers[0], other) is False for other in way.quantizers[1:]):
            yield node, "its result is quantized on two grids, so it runs in float; share one Q/DQ pair"


def _is_bias_add(view: GraphView, node: Node) -> bool:
    """Whether an Add biases a MatMul; the two become one QGemm, which may write floats."""
    found = biased(view, node) if node.op == "Add" else None
    return found is not None and found.operator.output in node.inputs


def grids_end_within_clips(view: GraphView) -> Violations:
    """ORT11: the grid behind a ReLU or clip ends inside it, so that it vanishes into the codes' own limits."""
    for node in view.nodes:
        alone = node.op in CLAMPS and dequantizer_of(view, node.input(0)) is not None
        quantized = is_integer_product(view, node) or (node.op in _WRITES_CODES and _reads_codes(view, node))
        if not (alone or quantized):
            continue
        way = way_of(view, node)
        if not way.clamps or not way.quantizers or (grid := _grid_range(view, way.quantizers[0])) is None:
            continue
        for clamp in way.clamps:
            least, greatest = _clip_range(view, clamp)
            if grid[0] < least or grid[1] > greatest:
                where = "it" if clamp is node else f"'{clamp.name}'"
                yield (
                    node,
                    (
                        f"the grid behind {where} is [{grid[0]:g}, {grid[1]:g}], wider than [{least:g}, {greatest:g}], "
                        "so it runs in float; end the grid inside, or limit the codes behind Q"
                    ),
                )
                break


def _grid_range(view: GraphView, q: Node) -> tuple[float, float] | None:
    scale, zero, dtype = scale_of(view, q), zero_point_of(view, q), code_type(view, q) or TensorProto.UINT8
    if scale is None or zero is None or scale.size != 1 or zero.size != 1:
        return None
    if dtype not in {TensorProto.UINT8, TensorProto.INT8}:
        return None
    least = 0 if dtype == TensorProto.UINT8 else -128
    low, high = (np.float32(code - zero[0]) * scale[0] for code in (least, least + 255))
    return float(low), float(high)


def _clip_range(view: GraphView, node: Node) -> tuple[float, float]:
    """Return the least and greatest value that a ReLU or Clip lets through; bounds that are not known bound nothing."""
    if node.op == "Relu":
        return 0.0, float("inf")
    bounds = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        value = view.value(node.input(index)) if node.input(index) else None
        written = node.attributes.get(name, default)
        bounds.append(float(value.reshape(-1)[0]) if value is not None and value.size else float(written))
    return bounds[0], bounds[1]


def elementwise_ops_read_codes(view: GraphView) -> Violations:
    """ORT12: an Add, Mul or Concat that reads a DQ reads DQs alone, of one type of codes."""
    for node in view.nodes:
        if node.op not in _ELEMENTWISE or len(node.inputs) < 2 or _is_bias_add(view, node):
            continue
        found = [dequantizer_of(view, tensor) for tensor in node.inputs]
        read = [dq for dq in found if dq is not None]
        raw = [tensor for tensor, dq in zip(node.inputs, found, strict=True) if dq is None]
        if read and raw:
            yield node, f"reads '{read[0].name}' and floats '{raw[0]}', so it runs in float; quantize all or none"
        elif any(view.is_constant(dq.input(0)) for dq in read) and len({code_type(view, dq) for dq in read}) > 1:
            yield node, "its constant's codes have another type, so it runs in float; quantize the constant as the data"


def signed_tensors_have_one_reader(view: GraphView) -> Violations:
    """ORT13: int8 codes are read once: those become uint8, others are not, and x86-64 has no kernels for them."""
    for q in filter(is_q, view.nodes):
        if code_type(view, q) != TensorProto.INT8 or view.is_constant(q.input(0)):
            continue
        readers = [use for dq in view.consumers(q.output) if is_dq(dq) for use in _uses(view, dq.output)]
        if len(readers) > 1:
            names = ", ".join(f"'{reader.name}'" for reader in readers)
            yield q, f"int8 codes go to {names}, which then run in float; take uint8"


def _uses(view: GraphView, tensor: str) -> Iterator[Node]:
    """Each place where a tensor is read: a node that reads it twice is there twice."""
    return (node for node in view.consumers(tensor) for name in node.inputs if name == tensor)


def has_another_form(view: GraphView, node: Node) -> bool:
    """Whether an op without an integer kernel has a form with one."""
    if node.op == "ReduceMean":
        dims = view.dims(node.input(0))
        given = view.value(node.input(1)) if node.input(1) else None
        axes = tuple(given.reshape(-1)) if given is not None else node.integers("axes")
        if dims is None or axes is None:
            return False
        return sorted(int(axis) % len(dims) for axis in axes) == list(range(2, len(dims))) and len(dims) > 2
    return node.op in _OTHER_FORM


def _float_islands(view: GraphView) -> Iterator[Node]:
    """Ops between DQ and Q that have no integer kernel."""
    for node in view.nodes:
        resized = node.op == "Resize" and node.attributes.get("mode") in {None, b"nearest"}
        if node.op in _INTEGER or resized or is_dq(node) or is_q(node) or not node.input(0):
            continue
        if dequantizer_of(view, node.input(0)) is not None and way_of(view, node).quantizers:
            yield node


def ops_take_their_integer_form(view: GraphView) -> Violations:
    """ORT16: an op between DQ and Q that has no integer kernel is written as one that has."""
    for node in _float_islands(view):
        if has_another_form(view, node):
            yield node, f"{node.op} has no integer kernel, so it runs in float; {_OTHER_FORM[node.op]}"


def float_islands(view: GraphView) -> Violations:
    """ORT17: an op between DQ and Q has no integer kernel in any form."""
    for node in _float_islands(view):
        if not has_another_form(view, node):
            yield node, f"{node.op} has no integer kernel: it is dequantized, computed in float and quantized again"
