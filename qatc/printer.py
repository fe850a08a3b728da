"""The textual form of a graph: one line per node, unaligned so that a diff shows only what changed.

%conv = FusedConv2d(%x_q, bn=%bn, grid=%x_q) : f32[N,8,32,32]  k3 p1 act=ReLU  w=s8/ch0  # conv block.py:9
"""

import difflib
import inspect
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from qatc.ir import TensorType, module_of, referenced_module, source_of, tensor_type
from qatc.modules.bn_modes import DEFAULT
from qatc.modules.fused import Fused
from qatc.modules.kinds import describe_quant
from qatc.quantizers import Quantizer

_SHORT_NAMES = {"kernel_size": "k", "stride": "s", "padding": "p", "dilation": "d", "groups": "g"}
# Sizes that the shapes already say, and switches that do not change what is computed.
_HIDDEN = {
    "self",
    "in_channels",
    "out_channels",
    "in_features",
    "out_features",
    "num_features",
    "inplace",
    "device",
    "dtype",
}
_PARTS = (torch.Tensor, nn.Module)


class NodeText(NamedTuple):
    """The parts of a node's line, each a text that is empty where there is nothing to say."""

    head: str
    kind: str
    type: str
    attributes: str
    quant: str
    path: str
    location: str

    def line(self, *, locations: bool = True) -> str:
        """Return the parts as one line; `locations=False` leaves file and line out."""
        text = f"{self.head} : {self.type}" if self.type else self.head
        for part in (self.attributes, self.quant):
            if part:
                text += f"  {part}"
        comment = " ".join(filter(None, (self.path, self.location if locations else "")))
        return f"{text}  # {comment}" if comment else text


def format_graph(gm: fx.GraphModule, *, locations: bool = True) -> str:
    """Return the graph as text; `locations=False` leaves file and line out (for tests that compare)."""
    return "".join(format_node(node, locations=locations) + "\n" for node in shown_nodes(gm))


def format_node(node: fx.Node, *, locations: bool = True) -> str:
    """Return the node's one line."""
    return node_text(node).line(locations=locations)


def shown_nodes(gm: fx.GraphModule) -> list[fx.Node]:
    """Return the nodes that have a line: all but references to modules, which stand in the lines of their readers."""
    return [node for node in gm.graph.nodes if referenced_module(node) is None]


def node_text(node: fx.Node) -> NodeText:
    """Return what the node's line says, part by part."""
    if node.op == "output":
        return NodeText(f"return {_argument(node.args[0])}", "return", "", "", "", "", "")
    module, kind, source = module_of(node), tensor_type(node), source_of(node)
    shown = _kind(node, module)
    return NodeText(
        head=f"%{node.name} = {shown}({_arguments(node)})",
        kind=shown,
        type="" if kind is None else _type(kind),
        attributes="" if module is None else _attributes(module),
        quant="" if module is None else describe_quant(module),
        path=source.path if module is None else str(node.target),  # a second call site has a path of its own
        location=source.location,
    )


def diff(before: str, after: str, *, context: int = 0) -> str:
    """Return the lines that differ between two dumps (` `, `-` and `+` in front), without headers."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=context)
    return "".join(line + "\n" for line in lines if not line.startswith(("---", "+++", "@@")))


@lru_cache(maxsize=4096)
def _type(kind: TensorType) -> str:
    return str(kind)


def _kind(node: fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        return type(module).__name__
    if node.op == "placeholder":
        return "input"
    if node.op == "get_attr":
        return "parameter"
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))


def _arguments(node: fx.Node) -> str:
    if node.op == "placeholder":
        return ""
    parts = [_argument(a) for a in node.args] + [f"{k}={_argument(v)}" for k, v in node.kwargs.items()]
    return ", ".join(parts) if node.op != "get_attr" else str(node.target)


def _argument(value: Any) -> str:
    match value:
        case fx.Node():
            return f"%{value.target}" if referenced_module(value) is not None else f"%{value.name}"
        case tuple():
            inner = ", ".join(map(_argument, value))
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        case list():
            return f"[{', '.join(map(_argument, value))}]"
        case dict():
            return "{" + ", ".join(f"{k!r}: {_argument(v)}" for k, v in value.items()) + "}"
        case torch.dtype() | torch.device():
            return str(value).removeprefix("torch.")
        case _:
            return repr(value)


def _attributes(module: nn.Module) -> str:
    if isinstance(module, Quantizer):
        return ""
    parts, own = [], module.__dict__
    for name, default in _parameters(type(module)):  # type: ignore[arg-type]  # a type has a hash
        value = own[name] if name in own else getattr(module, name, default)
        if value is default or value is None or _same(value, default) or isinstance(value, _PARTS):
            continue
        if name == "bias" and isinstance(value, bool):
            continue
        short = _SHORT_NAMES.get(name)
        parts.append(f"{short}{_compact(value)}" if short else f"{name}={_value(value)}")
    activation = module._modules.get("activation")
    if activation is not None:
        parts.append(f"act={type(activation).__name__}")
    if isinstance(module, Fused) and module.bn_mode != DEFAULT:
        parts.append(f"bn={module.bn_mode}")
    return " ".join(parts)


def _value(value: Any) -> str:
    """Return a value on one line; a layer that a lowered module keeps in a list is its line's part."""
    if isinstance(value, list) and value and all(isinstance(part, nn.Module) for part in value):
        return ",".join(f"{type(part).__name__}({_attributes(part)})" for part in value)
    return " ".join(repr(value).split())


@cache
def _parameters(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Return the arguments of a type of modules that a line may show, with their defaults."""
    constructor: Callable[..., None] = kind.__init__
    parameters = inspect.signature(constructor).parameters
    return tuple((name, p.default) for name, p in parameters.items() if name not in _HIDDEN)


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, tuple) and not isinstance(default, tuple):
        return all(_same(v, default) for v in value)
    return type(value) is type(default) and bool(value == default)


def _compact(value: Any) -> str:
    if isinstance(value, tuple) and len(set(value)) == 1:
        return str(value[0])
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
