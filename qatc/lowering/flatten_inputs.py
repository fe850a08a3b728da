"""One input per tensor: the first thing that lowering does, since a file has tensors for inputs and no containers."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from qatc import ir
from qatc.errors import LoweringError
from qatc.ir import Source, TensorType
from qatc.nested import Part, Path
from qatc.pipeline import Pass
from qatc.prepared import InputType, PreparedModel


@dataclass(frozen=True)
class FlattenInputs(Pass):
    """Give the graph one placeholder per tensor that it reads, and every placeholder its type.

    A tensor inside an argument is named by its path, joined by `_` (`features_0`), so that every name is a Python
    identifier and a keyword for `numpy.savez`. Inputs that the graph never reads are dropped; what was no tensor when
    inputs were last seen becomes its default. What the inputs are is what `prepare` and `calibrate` noted.
    """

    name: ClassVar[str] = "flatten-inputs"

    def run(self, gm: fx.GraphModule) -> bool:
        """Rewrite the graph; return whether anything changed.

        Raises `LoweringError` where the inputs are unknown, or the graph uses a container as a whole.
        """
        made_for = gm.prepared_for if isinstance(gm, PreparedModel) else None
        if made_for is None or made_for.inputs is None:
            raise LoweringError(
                "the shapes of the inputs are unknown",
                remedy="give example_inputs to qatc.prepare, or run qatc.calibrate",
            )
        before = [(node, node.args) for node in gm.graph.nodes if node.op == "placeholder"]
        for node, _ in before:
            known = [given for given in made_for.inputs if given.path[0].name == _argument(node)]
            if any(len(given.path) == 1 for given in known):
                ir.set_tensor_type(node, _merged(known[0], ir.tensor_type(node)))
                node.args = ()  # an input has no default, and one without may follow
            elif known:
                _replace_container(node, known)
            else:
                _use_default(node)
        for node in [n for n in gm.graph.nodes if n.op == "placeholder" and not n.users]:
            gm.graph.erase_node(node)
        changed = before != [(node, node.args) for node in gm.graph.nodes if node.op == "placeholder"]
        if changed:
            gm.recompile()
        return changed


def _argument(placeholder: fx.Node) -> str:
    return str(placeholder.target).lstrip("*")


def _merged(seen: InputType, recorded: TensorType | None) -> TensorType:
    """Return the type of an input; a size is the batch's where it was so in all that is known."""
    kind = TensorType(seen.torch_dtype, seen.shape)
    if recorded is None or len(recorded.shape) != len(kind.shape):
        return kind
    pairs = zip(kind.shape, recorded.shape, strict=True)
    return TensorType(kind.dtype, tuple(old if size is None else size for size, old in pairs))


def _replace_container(node: fx.Node, known: list[InputType]) -> None:
    """Replace what reads the tensors of a container by placeholders, in the container's order."""
    read: dict[InputType, list[fx.Node]] = {}
    _find_reads(node, known, 1, read)
    for given in known:
        if given not in read:
            continue
        taken = {str(n.target) for n in node.graph.nodes if n.op == "placeholder"}
        name = ir.numbered(input_name(given.path), taken)
        with node.graph.inserting_before(node):
            flat = node.graph.placeholder(name)
        ir.set_source(flat, Source(str(flat.target)))
        for reader in read[given]:
            ir.set_tensor_type(flat, _merged(given, ir.tensor_type(reader)))
            ir.note_replaced(reader, flat)
            reader.replace_all_uses_with(flat)
    for reader in reversed([*_below(node)]):
        node.graph.erase_node(reader)


def _find_reads(node: fx.Node, known: list[InputType], depth: int, read: dict[InputType, list[fx.Node]]) -> None:
    for user in node.users:
        matches = _accessed(user, node)
        if matches is None:
            raise LoweringError(
                f"%{user.name} uses the argument {known[0].path[0].name!r} as a whole, which is no tensor",
                where=str(ir.source_of(user)),
                remedy="give qatc.prepare example_inputs: the graph then reads the tensors in it one by one",
            )
        found = [given for given in known if len(given.path) > depth and matches(given.path[depth])]
        if not found and user.users:
            raise LoweringError(
                f"%{user.name} reads a part of the argument {known[0].path[0].name!r} that was no tensor when inputs "
                "were last seen",
                where=str(ir.source_of(user)),
                remedy=f"calibrate with all inputs; last seen: {', '.join(given.name for given in known)}",
            )
        if len(found) == 1 and len(found[0].path) == depth + 1:
            read.setdefault(found[0], []).append(user)
        else:
            _find_reads(user, found, depth + 1, read)


def _accessed(user: fx.Node, container: fx.Node) -> Callable[[Part], bool] | None:
    """Return a test for the part of the container that a node reads; None where it reads no single part."""
    if user.op != "call_function" or user.args[:1] != (container,) or len(user.args) != 2:
        return None
    key = user.args[1]
    if user.target is operator.getitem and not isinstance(key, fx.Node):
        return lambda part: not part.attribute and bool(part.key == key)
    return (lambda part: part.name == key) if user.target is getattr else None


def _below(node: fx.Node) -> list[fx.Node]:
    """Return a container and what was read from it only to read on, in order."""
    found = [node]
    for user in node.users:
        found += _below(user)
    return found


def _use_default(node: fx.Node) -> None:
    if not node.users:
        return
    if not node.args:
        raise LoweringError(
            f"the type of the input {_argument(node)!r} is unknown",
            remedy="calibrate with all inputs that the model needs",
        )

    def without(value: Any) -> Any:
        return node.args[0] if value is node else value

    for user in list(node.users):
        user.args = fx.node.map_arg(user.args, without)
        user.kwargs = fx.node.map_arg(user.kwargs, without)


def input_name(path: Path) -> str:
    """Return the name of the input that a tensor becomes."""
    return re.sub(r"\W", "_", "_".join(part.name for part in path))


def input_types(gm: fx.GraphModule) -> dict[str, TensorType]:
    """Return the inputs of a graph whose inputs are flat, in order, with their types."""
    types = {str(n.target): ir.tensor_type(n) for n in gm.graph.nodes if n.op == "placeholder"}
    return {name: kind for name, kind in types.items() if kind is not None}
