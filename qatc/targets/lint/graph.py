"""A read-only view over an ONNX graph: who makes a tensor, who reads it, what is known about it.

Whatever the file leaves open (a shape, a value, a name) reads as ``None``; nothing here raises on an odd file.
"""

import contextlib
import graphlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[Any]
Dims = tuple[int | None, ...]

# Two runs give two values, so such a node is no constant although it may have no inputs.
_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)

# Shape inference reads the numbers of shapes, axes and the like only; they are never longer.
_SHAPE_CONSTANT = 1024

_CONSTANT_FORMS: Mapping[str, type[np.generic]] = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


@dataclass(frozen=True, eq=False)
class Node:
    """One operator: ``op`` carries the domain when that is not ONNX's own, ``name`` is never empty."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def input(self, index: int) -> str:
        """Name of an input, empty when the optional input is not given."""
        return self.inputs[index] if index < len(self.inputs) else ""

    @property
    def output(self) -> str:
        """Name of the first output, empty when there is none."""
        return self.outputs[0] if self.outputs else ""

    def integer(self, attribute: str) -> int | None:
        """Value of an integer attribute, ``None`` when it is not given."""
        value = self.attributes.get(attribute)
        return value if isinstance(value, int) else None

    def integers(self, attribute: str) -> tuple[int, ...] | None:
        """Value of an integer list attribute, ``None`` when it is not given."""
        value = self.attributes.get(attribute)
        return tuple(value) if isinstance(value, list) and all(isinstance(item, int) for item in value) else None


class GraphView:
    """The main graph of a model; bodies of control flow are opaque but count as readers of what they capture."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        """Read a model; numbers in external data are read from `folder`, each when it is asked for, or are unknown."""
        self._folder = folder
        graph = model.graph
        self._opsets = {_domain(entry.domain): entry.version for entry in model.opset_import}
        listed = [_node(proto, index) for index, proto in enumerate(graph.node)]
        order = _acyclic(listed)
        # A node on a cycle is dropped: every walk below then ends, also on a file that is no valid ONNX.
        self.nodes: tuple[Node, ...] = tuple(node for node in listed if node in order)
        self._producer = {tensor: node for node in self.nodes for tensor in node.outputs if tensor}
        self._consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for tensor in dict.fromkeys(node.inputs):
                self._consumers.setdefault(tensor, []).append(node)

        self.outputs: tuple[str, ...] = tuple(value.name for value in graph.output)
        self._captured = _captured(graph)
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._constants = set(self._tensors) | {sparse.values.name for sparse in graph.sparse_initializer}
        self.inputs = frozenset(value.name for value in graph.input if value.name not in self._constants)
        for node in order:
            self._propagate_constants(node)
        self._types = _types(model)

    def _propagate_constants(self, node: Node) -> None:
        reads = [tensor for tensor in node.inputs if tensor]
        has_body = any(isinstance(value, onnx.GraphProto) for value in node.attributes.values())
        if node.op in _RANDOM or has_body or not all(tensor in self._constants for tensor in reads):
            return
        if not reads and node.op != "Constant":
            return
        self._constants.update(node.outputs)
        if node.op == "Constant" and (tensor := _constant_tensor(node)) is not None:
            self._tensors[node.output] = tensor
        elif node.op == "Identity" and reads[0] in self._tensors:
            self._tensors[node.output] = self._tensors[reads[0]]

    def opset(self, domain: str = "") -> int | None:
        """Version of an operator set that the file imports."""
        return self._opsets.get(domain)

    def producer(self, tensor: str) -> Node | None:
        """Return the node that makes a tensor; graph inputs and initializers have none."""
        return self._producer.get(tensor)

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        """Nodes that read a tensor, each once."""
        return tuple(self._consumers.get(tensor, ())) if tensor else ()

    def escapes(self, tensor: str) -> bool:
        """Whether something besides a node reads the tensor: the caller of the graph or a control flow body."""
        return tensor in self.outputs or tensor in self._captured

    def is_constant(self, tensor: str) -> bool:
        """Whether the tensor depends on no graph input: an initializer, a Constant or anything computed from them."""
        return tensor in self._constants

    def value(self, tensor: str) -> Array | None:
        """Return a constant's numbers, ``None`` when they are computed, in another file or unreadable."""
        proto = self._tensors.get(tensor)
        if proto is None:
            return None
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            loaded = None if self._folder is None else _loaded(proto, self._folder)
            if loaded is None:
                return None
            proto = loaded
        try:
            array = np.asarray(onnx.numpy_helper.to_array(proto))
        except (ValueError, TypeError, KeyError):
            return None
        return None if array.dtype.kind in "OSUc" else array

    def dtype(self, tensor: str) -> int | None:
        """Element type, as onnx.TensorProto numbers them."""
        if tensor in self._tensors:
            return self._tensors[tensor].data_type or None
        return self._types.get(tensor, (None, None))[0]

    def dims(self, tensor: str) -> Dims | None:
        """Return the shape: ``None`` for an unknown rank, a ``None`` entry for an unknown or symbolic dimension."""
        if tensor in self._tensors:
            return tuple(self._tensors[tensor].dims)
        return self._types.get(tensor, (None, None))[1]

    def source(self, tensor: str, through: Collection[str]) -> str:
        """Return the tensor reached by walking back over the data input of ops in ``through``."""
        while (node := self.producer(tensor)) is not None and node.op in through and _carries_data(node, tensor):
            tensor = node.input(0)
        return tensor

    def sinks(self, tensor: str, through: Collection[str]) -> Iterator[Node]:
        """Nodes not in ``through`` that read the tensor, directly or behind ops in ``through``."""
        seen: set[Node] = set()
        waiting = [tensor]
        while waiting:
            for node in self.consumers(waiting.pop()):
                if node in seen:
                    continue
                seen.add(node)
                if node.op in through:
                    waiting.extend(node.outputs)
                else:
                    yield node

    def upstream(self, tensor: str) -> set[Node]:
        """Every node that a tensor is computed by, near or far."""
        seen: set[Node] = set()
        waiting = [tensor]
        while waiting:
            maker = self.producer(waiting.pop())
            if maker is not None and maker not in seen:
                seen.add(maker)
                waiting.extend(maker.inputs)
        return seen


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _node(proto: onnx.NodeProto, index: int) -> Node:
    domain = _domain(proto.domain)
    attributes: dict[str, Any] = {}
    for attribute in proto.attribute:
        # An attribute without a type has no value to give.
        with contextlib.suppress(ValueError):
            attributes[attribute.name] = onnx.helper.get_attribute_value(attribute)
    # protobuf hands over text that is not UTF-8 as bytes; str() makes a usable name of it.
    op = str(proto.op_type)
    outputs = tuple(map(str, proto.output))
    first = next((output for output in outputs if output), f"#{index}")
    return Node(
        op=f"{domain}::{op}" if domain else op,
        name=str(proto.name) or f"{op}->{first}",
        inputs=tuple(map(str, proto.input)),
        outputs=outputs,
        attributes=attributes,
    )


def _acyclic(nodes: Iterable[Node]) -> dict[Node, None]:
    """Nodes in topological order, without those on or behind a cycle."""
    nodes = tuple(nodes)
    producer = {tensor: node for node in nodes for tensor in node.outputs if tensor}
    sorter = graphlib.TopologicalSorter({node: [producer[t] for t in node.inputs if t in producer] for node in nodes})
    # After this error the sorter still hands out every node that no cycle holds back.
    with contextlib.suppress(graphlib.CycleError):
        sorter.prepare()
    order: dict[Node, None] = {}
    while sorter.is_active():
        ready = sorter.get_ready()
        order.update(dict.fromkeys(ready))
        sorter.done(*ready)
    return order


def _captured(graph: onnx.GraphProto) -> frozenset[str]:
    names: set[str] = set()
    waiting = [body for node in graph.node for body in _bodies(node)]
    while waiting:
        body = waiting.pop()
        names.update(value.name for value in body.output)
        for node in body.node:
            names.update(node.input)
            waiting.extend(_bodies(node))
    return frozenset(names)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [body for attribute in node.attribute for body in (attribute.g, *attribute.graphs)]


def _constant_tensor(node: Node) -> onnx.TensorProto | None:
    tensor = node.attributes.get("value")
    if isinstance(tensor, onnx.TensorProto):
        return tensor
    for attribute, kind in _CONSTANT_FORMS.items():
        if attribute in node.attributes:
            with contextlib.suppress(ValueError, TypeError):
                return onnx.numpy_helper.from_array(np.asarray(node.attributes[attribute], dtype=kind))
    return None


def _loaded(tensor: onnx.TensorProto, folder: Path) -> onnx.TensorProto | None:
    """Return a copy that has its external data within, ``None`` when they cannot be read."""
    copy = onnx.TensorProto()
    copy.CopyFrom(tensor)
    try:
        onnx.external_data_helper.load_external_data_for_tensor(copy, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError):
        return None
    copy.data_location = onnx.TensorProto.DEFAULT
    return copy


def _carries_data(node: Node, tensor: str) -> bool:
    """Tell data from side outputs: MaxPool's indices and Dropout's mask are not what came in."""
    return node.op == "Split" or tensor == node.output


def _types(model: onnx.ModelProto) -> dict[str, tuple[int | None, Dims | None]]:
    graph = model.graph
    # Inference refuses some invalid files; what the file declares is then all there is.
    with contextlib.suppress(onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        graph = onnx.shape_inference.infer_shapes(_without_weights(model)).graph
    types: dict[str, tuple[int | None, Dims | None]] = {}
    for info in (*graph.value_info, *graph.input, *graph.output):
        if info.type.HasField("tensor_type"):
            tensor = info.type.tensor_type
            dims = tuple(_dim(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
            types[info.name] = (tensor.elem_type or None, dims)
    return types


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that fits in the 2 GB of one protobuf message: large initializers become mere declarations."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = model.graph
    light.graph.node.extend(graph.node)
    light.graph.input.extend(graph.input)
    light.graph.output.extend(graph.output)
    light.graph.value_info.extend(graph.value_info)
    declared = {info.name for info in (*graph.input, *graph.value_info)}
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _SHAPE_CONSTANT:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            light.graph.value_info.append(info)
    return light


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | None:
    # Some exporters write 0 or -1 for "not known".
    return dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
