"""The rules that a QDQ file for OpenVINO's CPU plugin keeps, one line a rule.

Sources: OpenVINO's low precision transformations and CPU plugin, NNCF's quantizer propagation; runtime graphs and
outputs of 2026.4, which tests/targets/test_lint_openvino.py makes again; docs/targets.md.
"""

from functools import partial

from onnx import TensorProto

from qatc.targets.lint import grids, placement
from qatc.targets.lint.graph import GraphView, Node
from qatc.targets.lint.onnxruntime import ON_CODES
from qatc.targets.lint.qdq import (
    PASSES,
    code_type,
    dequantizer,
    is_dequantized,
    is_dq,
    is_q,
    is_quantized,
    operands,
    weight_uses,
    zero_point_of,
)
from qatc.targets.lint.rule import LintRule, Violations
from qatc.targets.lint.ways import dequantizer_of, way_of

_POOLS = frozenset({"AveragePool", "ReduceMax", "ReduceMin"})
_SUMS = frozenset({"Add", "Sub"})
_FLOAT = frozenset({"LayerNormalization", "LogSoftmax", "Softmax"})


def fused_sums_read_raw_products(view: GraphView) -> Violations:
    """OV08: no Q/DQ stands between a convolution and the residual sum that the plugin fuses into it.

    The fusion keeps the sum in the convolution's accumulator and drops the pair (FuseConvolutionSumAndConvolutionSum-
    Activation). It needs the convolution's result for itself, nothing between but the pair, and a skip that is not
    the convolution's own input, over which the sum would be written.
    """
    for node in view.nodes:
        if node.op not in _SUMS or len(node.inputs) != 2 or any(map(view.is_constant, node.inputs)):
            continue
        for tensor, skip in (node.inputs, node.inputs[::-1]):
            convolution = _convolution_behind_pair(view, tensor)
            if convolution is None or dequantizer(view, skip) is None:
                continue
            if dequantizer(view, skip) is not dequantizer(view, convolution.input(0)):
                yield node, f"the Q/DQ between '{convolution.name}' and the sum is dropped; quantize the skip alone"
                break


def _convolution_behind_pair(view: GraphView, tensor: str) -> Node | None:
    """Return the quantized convolution whose result only this pair reads, and whose pair only this tensor's reader."""
    dq = view.producer(tensor)
    q = view.producer(dq.input(0)) if is_dq(dq) else None
    if not is_dq(dq) or not is_q(q):
        return None
    made = view.producer(q.input(0))
    alone = all(len(view.consumers(name)) == 1 and not view.escapes(name) for name in (q.input(0), q.output, dq.output))
    return made if alone and made is not None and made.op == "Conv" and is_quantized(view, made) else None


def some_operands_are_symmetric(view: GraphView) -> Violations:
    """OV09: ConvTranspose, Pad and products of two activations read symmetric codes; the second factor signed ones."""
    for node in view.nodes:
        if node.op == "ConvTranspose" or (node.op == "Pad" and not _pads_a_convolution(view, node)):
            tensors = [node.input(0)]
        elif node.op == "MatMul" and not any(map(view.is_constant, node.inputs)):
            tensors = list(node.inputs)
        else:
            continue
        for index, tensor in enumerate(tensors):
            dq = dequantizer_of(view, tensor)
            zero = zero_point_of(view, dq) if dq is not None else None
            if dq is None or zero is None:
                continue
            middle = 128 if index and code_type(view, dq) == TensorProto.UINT8 else 0
            if (zero != middle).any():
                second = " (int8, or uint8 about 128, for the second)" if index else ""
                yield node, f"'{dq.name}' has zero point {zero[0]}, so it runs in float; quantize symmetrically{second}"


def _pads_a_convolution(view: GraphView, node: Node) -> bool:
    readers = view.consumers(node.output)
    return bool(readers) and all(reader.op == "Conv" for reader in readers) and not view.escapes(node.output)


def weights_are_not_clipped(view: GraphView) -> Violations:
    """OV10: no Clip stands between a convolution's weight codes and their DQ; matrix products may have one."""
    for node in view.nodes:
        maker = view.producer(node.input(0)) if is_dq(node) else None
        if maker is None or maker.op != "Clip":
            continue
        for use in weight_uses(view, node):
            if use.operator.op in {"Conv", "ConvTranspose"}:
                yield node, f"a Clip before it keeps '{use.operator.name}' in float; store the clipped codes"


def products_are_quantized_whole(view: GraphView) -> Violations:
    """OV11: a weighted op dequantizes data and weight, or neither: half-quantized it runs in float."""
    for node in view.nodes:
        found = operands(view, node)
        if found is None:
            continue
        data, weight = _reads_codes(view, found.data), is_dequantized(view, found.weight)
        if data and not weight:
            yield node, "data comes from a DQ, the weight does not; quantize the weight too"
        elif weight and not data and not view.is_constant(found.data):
            yield node, "the weight comes from a DQ, data does not; put a Q/DQ on the data input"


def _reads_codes(view: GraphView, tensor: str) -> bool:
    """Whether a tensor is dequantized, also past what the plugin runs on codes without a Q of its own behind."""
    while (maker := view.producer(view.source(tensor, PASSES | _POOLS))) is not None and _is_nearest(maker):
        tensor = maker.input(0)
    return is_dequantized(view, view.source(tensor, PASSES | _POOLS))


def _is_nearest(node: Node) -> bool:
    return node.op == "Resize" and node.attributes.get("mode") in {None, b"nearest"}


def pools_write_their_own_grid(view: GraphView) -> Violations:
    """OV16: an AveragePool between a DQ and a quantized op has a Q behind: without, it rounds to its input's codes."""
    for node in view.nodes:
        if node.op != "AveragePool" or dequantizer_of(view, node.input(0)) is None or way_of(view, node).quantizers:
            continue
        for reader in view.sinks(node.output, PASSES):
            found = operands(view, reader)
            product = found is not None and is_dequantized(view, found.weight)
            if product or reader.op in {"Add", "Concat", "Mul"}:
                yield node, f"what '{reader.name}' reads of it is rounded to its input's codes; put a Q/DQ behind it"
                break


def counted_padding_is_zero(view: GraphView) -> Violations:
    """OV15: an AveragePool that counts its padding reads symmetric codes: what is padded are codes of zero."""
    for node in view.nodes:
        if node.op != "AveragePool" or not node.integer("count_include_pad") or not any(node.integers("pads") or ()):
            continue
        dq = dequantizer_of(view, node.input(0))
        zero = zero_point_of(view, dq) if dq is not None else None
        if dq is not None and zero is not None and zero.any() and way_of(view, node).quantizers:
            yield node, f"its padding counts as code 0, not {zero[0]}; read a symmetric grid, or pad in a Pad before it"


def float_islands(view: GraphView) -> Violations:
    """OV17: between DQ and Q, Softmax, LayerNorm and linear interpolation are computed in float."""
    for node in view.nodes:
        smooth = node.op == "Resize" and node.attributes.get("mode") in {b"linear", b"cubic"}
        if not (node.op in _FLOAT or smooth) or dequantizer_of(view, node.input(0)) is None:
            continue
        if way_of(view, node).quantizers:
            yield node, f"{node.op} has no integer kernel: it is dequantized, computed in float and quantized again"


_LPT = "OpenVINO low precision transformations"
_MEASURED = "measured on 2026.4"
_ODD = frozenset({"Add", "AveragePool", "Concat", "Conv", "Gemm", "MatMul"})

OPENVINO_RULES = (
    LintRule(
        "OV01",
        "error",
        "scales are constant, finite, positive floats, one zero point each",
        "OpenVINO ONNX frontend, QuantizeLinear",
        grids.scales_are_positive_constants,
    ),
    LintRule("OV02", "error", "the opset has the codes", "ONNX operator QuantizeLinear", grids.opset_has_the_codes),
    LintRule(
        "OV03",
        "error",
        "activations have codes of 8 bits",
        f"{_LPT}; {_MEASURED}",
        partial(
            grids.codes_have_types,
            types=grids.EIGHT_BITS,
            constants=False,
            otherwise="the pair is discarded, limits and all; take 8 bits",
        ),
    ),
    LintRule(
        "OV04",
        "warning",
        "weights have codes of 8 bits",
        f"{_LPT}; {_MEASURED}",
        partial(
            grids.codes_have_types,
            types=grids.EIGHT_BITS,
            constants=True,
            otherwise="what reads them runs in float; store them in int8",
        ),
    ),
    LintRule(
        "OV05",
        "warning",
        "only constants have a vector of scales",
        f"{_LPT}; {_MEASURED}",
        grids.activations_have_one_scale,
    ),
    LintRule(
        "OV06",
        "error",
        "scales of channels fit their axis, which is the output channel's of Conv, Gemm and MatMul",
        f"ONNX operator QuantizeLinear; {_MEASURED}",
        partial(grids.channel_axes_are_right, of=frozenset({"Conv", "Gemm", "MatMul"})),
    ),
    LintRule("OV07", "warning", "weights are symmetric", f"{_LPT}; {_MEASURED}", grids.weights_are_symmetric),
    LintRule(
        "OV08",
        "error",
        "no Q/DQ between a convolution and the residual sum that is fused into it",
        f"OpenVINO CPU plugin, graph_optimizer FuseConvolutionSumAndConvolutionSumActivation; {_MEASURED}",
        fused_sums_read_raw_products,
    ),
    LintRule(
        "OV09",
        "warning",
        "ConvTranspose, Pad and products of two activations read symmetric codes",
        f"{_LPT}; {_MEASURED}",
        some_operands_are_symmetric,
    ),
    LintRule(
        "OV10",
        "warning",
        "no Clip between a convolution's weight codes and their DQ",
        f"{_LPT}; {_MEASURED}",
        weights_are_not_clipped,
    ),
    LintRule(
        "OV11",
        "warning",
        "a weighted op dequantizes data and weight, or neither",
        f"{_LPT}; {_MEASURED}",
        products_are_quantized_whole,
    ),
    LintRule(
        "OV12",
        "warning",
        "a quantized Concat has one scale before and behind",
        "NNCF, quantizer propagation: unified scales of Concat",
        placement.concats_share_a_scale,
    ),
    LintRule(
        "OV13",
        "error",
        "a Q feeds DQs or ops on codes, a DQ comes from a Q, no pair is repeated",
        "ONNX operator QuantizeLinear",
        partial(placement.pairs_are_complete, on_codes=ON_CODES, codes_come_in=True),
    ),
    LintRule(
        "OV14",
        "warning",
        "with powers of two, Add, AveragePool, Concat and products have an even zero point behind",
        _MEASURED,
        partial(placement.odd_zero_points_break_no_ties, of=_ODD),
    ),
    LintRule(
        "OV15",
        "error",
        "an AveragePool that counts its padding reads symmetric codes",
        _MEASURED,
        counted_padding_is_zero,
    ),
    LintRule(
        "OV16",
        "error",
        "an AveragePool in front of a quantized op has a Q behind",
        _MEASURED,
        pools_write_their_own_grid,
    ),
    LintRule("OV17", "note", "an op between DQ and Q without an integer kernel", _MEASURED, float_islands),
)
