"""A node of the graph as an operator's form reads it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from qatc.simulator.numerics import Numerics
from qatc.simulator.values import Value


@dataclass(frozen=True)
class Node:
    """One operator with its attributes, the opsets of its file, and the numerics to simulate."""

    proto: onnx.NodeProto
    attributes: Mapping[str, Any]
    opsets: Mapping[str, int]
    numerics: Numerics

    @classmethod
    def of(cls, proto: onnx.NodeProto, opsets: Mapping[str, int], numerics: Numerics) -> "Node":
        """Return the node with its attributes read."""
        read = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
        return cls(proto, read, opsets, numerics)

    @property
    def name(self) -> str:
        """The node's name, or its operator and first output."""
        return self.proto.name or f"{self.proto.op_type} {self.proto.output[0]}"

    def get(self, name: str, default: Any) -> Any:
        """Return an attribute."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value


# The integer form of an operator, given its inputs (None where an optional one is not there); None where it has none
# for these, and runs in float.
Form = Callable[..., Value | None]
