"""Small QDQ graphs of one operator, and how they are compared."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]


class Graph:
    """A graph in the making: each method adds nodes and returns the name of what they give."""

    def __init__(self, opset: int = 18) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def quantized(self, x: str, scale: float, zero: int, dtype: Any = np.uint8, real: Any = np.float32) -> str:
        grid = self.constant(real(scale)), self.constant(dtype(zero))
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *grid), *grid)

    def input(
        self, shape: Sequence[int], scale: float = 0.02, zero: int = 131, dtype: Any = np.uint8, real: Any = np.float32
    ) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, _type(real), shape))
        return self.quantized(name, scale, zero, dtype, real)

    def weight(self, codes: Array, scale: Any, axis: int = 0, zero: Any = None, **more: int) -> str:
        zero = np.zeros_like(np.asarray(scale), codes.dtype) if zero is None else zero
        grid = self.constant(scale), self.constant(zero)
        return self.op("DequantizeLinear", self.constant(codes), *grid, axis=axis, **more)

    def model(self, output: str, rank: int, real: Any = np.float32) -> onnx.ModelProto:
        given = helper.make_tensor_value_info(output, _type(real), [None] * rank)
        graph = helper.make_graph(self.nodes, "graph", self.inputs, [given], self.constants)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        onnx.checker.check_model(made)
        return onnx.shape_inference.infer_shapes(made)


def _type(real: Any) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(real))


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def codes(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).integers(-127, 128, shape).astype(np.int8)
