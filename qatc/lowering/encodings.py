"""Scales and zero points of a lowered file in the format of AIMET's encodings, 1.0.0, which QNN's converter reads."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from torch import fx

import qatc
from qatc import ir
from qatc.modules.fused import Fused
from qatc.quantizers import Quantizer


def widths(gm: fx.GraphModule) -> dict[str, int]:
    """Return the bits of every quantized tensor of a prepared model, by the name that its nodes have in the file."""
    found: dict[str, int] = {}
    for node, module in ir.module_calls(gm):
        if isinstance(module, Quantizer):
            found[ir.source_of(node).path] = module.spec.bits
        elif isinstance(module, Fused) and module.weight_quantizer is not None:
            found[str(node.target)] = module.weight_quantizer.spec.bits
    return found


def encodings(proto: onnx.ModelProto, bits: Mapping[str, int]) -> dict[str, Any]:
    """Return the encodings of the file's tensors.

    A tensor goes by the name of its real values: what QuantizeLinear reads, or for a constant kept as codes what
    DequantizeLinear gives. Offsets are on the unsigned grid, as AIMET has them: the negative zero point of unsigned
    codes, -128 of signed ones of 8 bits whose zero point is 0. Biases have none; converters derive theirs. `bits` are
    the widths of tensors, by the name in front of their nodes' operators; codes of others fill their type.
    """
    constants = {constant.name: constant for constant in proto.graph.initializer}
    makers = {output: node for node in proto.graph.node for output in node.output}
    activations: dict[str, dict[str, Any]] = {}
    parameters: dict[str, dict[str, Any]] = {}
    for node in proto.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        source = _quantize_linear(node.input[0], makers)
        name = node.output[0] if source is None else source.input[0]
        scale, zero_point = (onnx.numpy_helper.to_array(constants[other]) for other in node.input[1:3])
        if zero_point.dtype == np.int32:
            continue  # a bias
        of_constant = source is None or name in constants
        width = bits.get(node.name.rpartition("/")[0], 8 * zero_point.dtype.itemsize)
        (parameters if of_constant else activations)[name] = _encoding(name, scale, zero_point, width)
    return {
        "version": "1.0.0",
        "producer": {"package": "qatc", "version": qatc.__version__},
        "activation_encodings": list(activations.values()),
        "param_encodings": list(parameters.values()),
        "excluded_layers": [],
    }


def _quantize_linear(codes: str, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the QuantizeLinear that the codes come from, through what limits and arranges them; None of constants."""
    node = makers.get(codes)
    while node is not None and node.op_type != "QuantizeLinear":
        node = makers.get(node.input[0])
    return node


def _encoding(name: str, scale: Any, zero_point: Any, bits: int) -> dict[str, Any]:
    signed = np.issubdtype(zero_point.dtype, np.signedinteger)
    offset = -zero_point.astype(np.int64) - (1 << (bits - 1) if signed else 0)
    return {
        "name": name,
        "dtype": "INT",
        "bw": bits,
        "enc_type": "PER_CHANNEL" if scale.ndim else "PER_TENSOR",
        "is_sym": bool(signed and not zero_point.any()),
        "scale": [float(step) for step in np.atleast_1d(scale)],
        "offset": [int(step) for step in np.atleast_1d(offset)],
    }
