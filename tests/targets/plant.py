"""Editing a lowered file as a careless hand would: one fault at a time."""

import re

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper

from tests.targets.lint_graphs import CONSTANTS
from tests.targets.runtime_graphs import NUMBERS


class Planter:
    """A copy of a model, and what can be done to it by the names of nodes and quantizers."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self._made = 0

    def node(self, name: str) -> onnx.NodeProto:
        found: onnx.NodeProto
        (found,) = [node for node in self.graph.node if node.name == name]
        return found

    def value(self, name: str) -> NDArray[np.generic]:
        return numpy_helper.to_array(next(tensor for tensor in self.graph.initializer if tensor.name == name))

    def constant(self, value: ArrayLike, dtype: type[np.generic] | np.dtype[np.generic]) -> str:
        """Add an initializer; return its name."""
        self._made += 1
        name = f"planted_{self._made}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def grid(self, quantizer: str, scale: ArrayLike | None = None, zero: NDArray[np.generic] | None = None) -> None:
        """Give the Q and the DQ of a quantizer another scale or zero point."""
        for half in ("Quantize", "Dequantize"):
            node = self.node(f"{quantizer}/{half}Linear")
            if scale is not None:
                node.input[1] = self.constant(scale, np.float32)
            if zero is not None:
                node.input[2] = self.constant(zero, zero.dtype)

    def without(self, quantizer: str) -> None:
        """Take a quantizer out: what read its DQ reads the float tensor."""
        q, dq = (self.node(f"{quantizer}/{half}Linear") for half in ("Quantize", "Dequantize"))
        self.reconnect(dq.output[0], q.input[0])
        self.graph.node.remove(q)
        self.graph.node.remove(dq)

    def reconnect(self, old: str, new: str) -> None:
        for node in self.graph.node:
            node.input[:] = [new if name == old else name for name in node.input]

    def pair(self, tensor: str, *, like: str, scale: float | None = None) -> None:
        """Put a pair with the grid of another quantizer, or another scale, between a tensor and what reads it."""
        other = self.node(f"{like}/QuantizeLinear")
        maker = next(index for index, node in enumerate(self.graph.node) if tensor in node.output)
        scales = other.input[1] if scale is None else self.constant(scale, np.float32)
        self.reconnect(tensor, "planted")
        halves = [
            helper.make_node("QuantizeLinear", [tensor, scales, other.input[2]], ["planted_codes"], "planted_q"),
            helper.make_node("DequantizeLinear", ["planted_codes", scales, other.input[2]], ["planted"], "planted_dq"),
        ]
        for half in reversed(halves):
            self.graph.node.insert(maker + 1, half)

    def attribute(self, node: str, name: str, value: object) -> None:
        found = self.node(node)
        kept = [attribute for attribute in found.attribute if attribute.name != name]
        del found.attribute[:]
        found.attribute.extend([*kept, helper.make_attribute(name, value)])

    def append(self, text: str, **constants: NDArray[np.generic]) -> None:
        """Add nodes in ONNX's textual form; they read constants by name, and `y` becomes an output."""
        names = {name for node in self.graph.node for name in node.output} | {t.name for t in self.graph.initializer}
        dotted = sorted((name for name in names if "." in name), key=len, reverse=True)
        quoted = re.sub("|".join(map(re.escape, dotted)), lambda found: f'"{found[0]}"', text)
        graph = onnx.parser.parse_graph(f"planted () => (float y) {{ {quoted} }}")
        known = CONSTANTS | NUMBERS | constants
        for name in {name for node in graph.node for name in node.input} & known.keys():
            self.graph.initializer.append(numpy_helper.from_array(known[name], name))
        self.graph.node.extend(graph.node)
        self.graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None))

    def float_weight(self, layer: str) -> None:
        """Store a layer's weight as floats, without a DQ."""
        dq = self.node(f"{layer}/DequantizeLinear")
        shape = self.value(dq.input[0]).shape
        self.reconnect(dq.output[0], self.constant(np.ones(shape), np.float32))
        self.graph.node.remove(dq)

    def feed(self, node: str, index: int, value: float, dtype: type[np.generic]) -> None:
        """Fill what a node reads at an index with one value."""
        found = self.node(node)
        found.input[index] = self.constant(np.full(self.value(found.input[index]).shape, value), dtype)

    def codes(self, layer: str, dtype: type[np.generic] = np.int8, code: int = 1) -> None:
        """Fill a layer's weight with one code of a type."""
        dq = self.node(f"{layer}/DequantizeLinear")
        shape, zeros = self.value(dq.input[0]).shape, self.value(dq.input[2]).shape
        dq.input[0], dq.input[2] = self.constant(np.full(shape, code), dtype), self.constant(np.zeros(zeros), dtype)

    def opset(self, version: int) -> "Planter":
        self.model.opset_import[0].version = version
        return self
