"""What a graph need not compute on every call, constants, and what it must not remember, its example's device."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from qatc import ir

_RANDOM = (
    "rand", "normal", "bernoulli", "multinomial", "dropout", "alpha_dropout", "feature_dropout", "uniform_", "poisson",
    "exponential_", "geometric_", "cauchy_", "log_normal_", "random_", "binomial", "rrelu", "gumbel",
)  # fmt: skip


def name_of(node: fx.Node) -> str:
    """Return the name of the function or method that a node calls."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def writes(node: fx.Node) -> bool:
    """Say whether a call changes a tensor that it is given."""
    name = name_of(node)
    operator_name = getattr(node.target, "__module__", "") == "_operator" and name[:1] == "i" and name != "index"
    return (
        (name.endswith("_") and not name.endswith("__"))
        or name == "setitem"
        or (operator_name and name not in ("invert", "inv", "is_", "is_not", "indexOf"))
        or bool(node.kwargs.get("inplace"))
        or "out" in node.kwargs
    )


def fold_constants(gm: fx.GraphModule) -> None:
    """Replace tensors made of numbers alone (grids, masks, index tables) by buffers, which follow the model's device.

    They are no part of the state_dict, as they were none.
    """
    constant = _constant_nodes(gm.graph)
    if not constant:
        return
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for node in gm.graph.nodes:
            if node in constant:
                args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), values.__getitem__)
                call = node.target if node.op == "call_function" else getattr(args[0], node.target)
                values[node] = call(*(args if node.op == "call_function" else args[1:]), **kwargs)
    for node in list(gm.graph.nodes):
        readers = [user for user in node.users if user not in constant]
        if node in constant and readers and isinstance(values[node], Tensor):
            _make_buffer(gm, node, values[node].detach().clone(), readers)
    for node in reversed(gm.graph.nodes):
        if node in constant and not node.users:
            gm.graph.erase_node(node)


def _constant_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Return the calls that depend on no input, parameter, buffer or chance."""
    constant: set[fx.Node] = set()
    for node in graph.nodes:
        called = node.op in ("call_function", "call_method") and not name_of(node).startswith(_RANDOM)
        if called and all(n in constant for n in node.all_input_nodes):
            constant.add(node)
    for node in graph.nodes:
        if node not in constant and writes(node):
            _drop_connected([n for n in node.all_input_nodes if n in constant], constant)
    return constant


def _drop_connected(start: list[fx.Node], constant: set[fx.Node]) -> None:
    """Take out what may share memory with tensors that a computed value is written into."""
    waiting = list(start)
    while waiting:
        node = waiting.pop()
        if node in constant:
            constant.discard(node)
            waiting += [*node.all_input_nodes, *(user for user in node.users if user in constant)]


def _make_buffer(gm: fx.GraphModule, node: fx.Node, value: Tensor, readers: list[fx.Node]) -> None:
    scope = ir.source_of(node).path
    owner = gm if ir.get_module(gm, scope) is None else gm.get_submodule(scope)
    scope = scope if owner is not gm else ""
    name, n = node.name, 0
    while hasattr(owner, name):
        n += 1
        name = f"{node.name}_{n}"
    owner.register_buffer(name, value, persistent=False)
    with gm.graph.inserting_before(node):
        constant = gm.graph.create_node("get_attr", f"{scope}.{name}".lstrip("."), name=f"{node.name}_value")
    ir.inherit(constant, node)
    for reader in readers:
        reader.replace_input_with(node, constant)


def follow_device(graph: fx.Graph) -> None:
    """Let what was made on the example's device be made on that of the inputs."""
    first = next((n for n in graph.nodes if n.op in ("placeholder", "call_function") and ir.tensor_type(n)), None)
    if first is None:
        return
    with graph.inserting_after(first):
        device = graph.call_function(getattr, (first, "device"))
    ir.set_source(device, ir.source_of(first))
    for node in list(graph.nodes):
        if node.op == "call_function" and isinstance(node.kwargs.get("device"), torch.device | str):
            node.kwargs = {**node.kwargs, "device": device}
        elif node.op == "call_method" and node.target == "to" and not _follows(node.args[0]):
            node.args = tuple(device if _is_cpu(arg) else arg for arg in node.args)
            node.kwargs = {k: device if _is_cpu(v) else v for k, v in node.kwargs.items()}
        elif node.op == "call_method" and node.target == "to" and isinstance(node.args[0], fx.Node):
            rest = [arg for arg in node.args[1:] if not _is_cpu(arg)]
            kwargs = {k: v for k, v in node.kwargs.items() if k != "device" or not _is_cpu(v)}
            if len(rest) + len(kwargs) == len(node.args) - 1 + len(node.kwargs):
                continue
            if rest or kwargs:
                node.args, node.kwargs = (node.args[0], *rest), kwargs
            else:
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
    if not device.users:
        graph.erase_node(device)


def _follows(value: Any) -> bool:
    """Say whether a tensor is on the inputs' device whatever it is: computed from what is, or made there."""
    waiting, seen = [value], set()
    while waiting:
        node = waiting.pop()
        if node.op in ("placeholder", "get_attr", "call_module") or "device" in node.kwargs:
            return True
        seen.add(node)
        waiting += [n for n in node.all_input_nodes if ir.tensor_type(n) is not None and n not in seen]
    return False


def _is_cpu(value: Any) -> bool:
    return (isinstance(value, torch.device) and value.type == "cpu") or value == "cpu"


def keep_out_of_state(root: nn.Module, gm: fx.GraphModule) -> None:
    """Leave out of the state_dict what the model left out: a graph module saves every buffer that it reads."""
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            source = root.get_submodule(owner)
            if name in source._non_persistent_buffers_set or name not in (source._buffers | source._parameters):
                gm.get_submodule(owner)._non_persistent_buffers_set.add(name)
