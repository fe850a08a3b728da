"""ONNX Runtime rules on what its optimizer makes other values of, or does not load.

Sources: onnxruntime core/optimizer/qdq_transformer (weight_bias_quantization, qdq_util), double_qdq_pairs_remover,
issue 25526; each was also measured on 1.31 (tests/targets/test_lint_onnxruntime.py does it again).
"""

import numpy as np
from onnx import TensorProto

from qatc.targets.lint.graph import GraphView, Node
from qatc.targets.lint.grids import is_power_of_two
from qatc.targets.lint.onnxruntime_kernels import is_integer_product
from qatc.targets.lint.qdq import biased, code_type, is_dq, is_q, operands, same_grid, scale_of
from qatc.targets.lint.rule import Violations
from qatc.targets.lint.ways import LOOKED_THROUGH, PROPAGATED, dequantizer_of, way_of

_QUANTIZED_ANYWAY = frozenset({"Conv", "ConvTranspose", "Gemm"})
# Two products of 255 and a weight are added in 16 bits by vpmaddubsw: |w0| + |w1| up to 128 fit.
_PAIR_LIMIT = 128


def biases_are_dequantized(view: GraphView) -> Violations:
    """ORT06: the bias of a product whose result is quantized is int32 with a DQ; the runtime rounds a float one."""
    for node in view.nodes:
        found = biased(view, node)
        if found is None or not is_integer_product(view, found.operator) or not view.is_constant(found.bias):
            continue
        if dequantizer_of(view, found.bias) is None and way_of(view, node).quantizers:
            yield node, f"float bias '{found.bias}' is rounded by the runtime; store int32 on f32(scale_x * scale_w)"


def weights_are_dequantized(view: GraphView) -> Violations:
    """ORT08: float weights between DQ and Q get scales of the runtime's own, and with them other values."""
    for node in view.nodes:
        found = operands(view, node) if node.op in _QUANTIZED_ANYWAY else None
        if found is None or not view.is_constant(found.weight) or dequantizer_of(view, found.weight) is not None:
            continue
        way = way_of(view, node)
        if dequantizer_of(view, found.data) is not None and way.quantizers:
            yield node, "float weights between DQ and Q are quantized by the runtime itself; quantize them in the file"


def signed_codes_are_not_propagated(view: GraphView) -> Violations:
    """ORT14: from opset 21 on no op that Q/DQ are propagated past reads int8 codes: the file would not load."""
    opset = view.opset()
    if opset is None or opset < 21:
        return
    for node in view.nodes:
        dq = dequantizer_of(view, node.input(0))
        if dq is None or code_type(view, dq) != TensorProto.INT8 or view.is_constant(dq.output):
            continue
        if node.op in PROPAGATED and not _goes_to_qs(view, node):
            yield node, f"reads int8 codes at opset {opset}, which does not load (issue 25526); take uint8 or opset 19"
        elif node.op == "MatMul" and any(_biases(view, add, node) for add in view.consumers(node.output)):
            dims = view.dims(node.output)
            if dims is not None and len(dims) > 2:
                yield node, f"int8 codes, rank {len(dims)} and a bias do not load at opset {opset}; take opset 19"


def _goes_to_qs(view: GraphView, node: Node) -> bool:
    readers = list(view.sinks(node.output, LOOKED_THROUGH))
    return bool(readers) and all(map(is_q, readers)) and not view.escapes(node.output)


def _biases(view: GraphView, add: Node, product: Node) -> bool:
    found = biased(view, add) if add.op == "Add" else None
    return found is not None and found.operator is product


def pairs_do_not_follow_pairs(view: GraphView) -> Violations:
    """ORT18: no pair stands right behind one of another grid: DoubleQDQPairsRemover makes one of the two."""
    for q in filter(is_q, view.nodes):
        dq = view.producer(q.input(0))
        before = view.producer(dq.input(0)) if is_dq(dq) else None
        if not is_dq(dq) or not is_q(before) or len(view.consumers(dq.output)) > 1 or view.escapes(dq.output):
            continue
        if len(view.consumers(before.output)) == 1 and same_grid(view, dq, q) is False:
            yield q, f"a pair of another grid right behind '{dq.name}' is merged with it; keep one of the two"


def softmax_stays_float(view: GraphView) -> Violations:
    """ORT21: no Softmax stands between DQ and Q of free scales: QLinearSoftmax has a table of rounded exponentials."""
    for node in view.nodes:
        dq = dequantizer_of(view, node.input(0)) if node.op == "Softmax" else None
        if dq is None or not (quantizers := way_of(view, node).quantizers):
            continue
        scales = [scale_of(view, pair) for pair in (dq, quantizers[0])]
        if any(scale is None or not is_power_of_two(scale) for scale in scales):
            yield (
                node,
                "the integer Softmax moves codes (0.3 % and more); LeakyRelu(1) behind it keeps it in float",
            )


def products_may_saturate(view: GraphView) -> Violations:
    """ORT22: without VNNI, x86-64 adds pairs of products of uint8 and int8 in 16 bits, which large weights overflow."""
    found = [node for node in view.nodes if is_integer_product(view, node) and _may_saturate(view, node)]
    if found:
        yield (
            found[0],
            f"weights of {len(found)} products saturate on CPUs without VNNI; set session.x64quantprecision=1 there",
        )


def _may_saturate(view: GraphView, node: Node) -> bool:
    both = operands(view, node)
    dq = dequantizer_of(view, both.weight) if both is not None else None
    codes = view.value(dq.input(0)) if dq is not None else None
    if codes is None or codes.size < 2 or codes.dtype != np.int8:
        return False
    # Any two weights of one sign may meet in a pair; which do is the kernel's packing. Two of each code are enough.
    counts = np.roll(np.bincount(codes.reshape(-1).view(np.uint8), minlength=256), 128)
    least_first = np.repeat(np.arange(-128, 128), np.minimum(counts, 2))
    return bool(max(-least_first[:2].sum(), least_first[-2:].sum()) > _PAIR_LIMIT)
