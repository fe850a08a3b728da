"""The reference simulator: a QDQ file executed in integers, by rules of a few lines each."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

import numpy as np
import onnx

from qatc.errors import SimulationError
from qatc.simulator.convolutions import CONVOLUTIONS
from qatc.simulator.elementwise import ELEMENTWISE, FUNCTIONS, table
from qatc.simulator.floats import Session, run_alone
from qatc.simulator.moves import MOVES, alike, moves, turned
from qatc.simulator.node import Form, Node
from qatc.simulator.numerics import NUMERICS, Numerics
from qatc.simulator.pools import POOLS
from qatc.simulator.products import PRODUCTS
from qatc.simulator.quantize import QUANTIZE
from qatc.simulator.values import Array, Moved, OnGrid, Plain, Value, moved

FORMS: Mapping[str, Form] = {**QUANTIZE, **CONVOLUTIONS, **PRODUCTS, **ELEMENTWISE, **POOLS}

Observer = Callable[[Node, Sequence[Value | None], Value], None]


def run(
    proto: onnx.ModelProto,
    feeds: Mapping[str, Array],
    outputs: Collection[str] | None = None,
    *,
    numerics: Numerics = NUMERICS,
    observer: Observer | None = None,
) -> dict[str, Array]:
    """Execute an ONNX file, in integers between its grids and in float32 elsewhere.

    Args:
        proto: a file with QuantizeLinear and DequantizeLinear nodes, of any target or tool.
        feeds: an array per input of the file.
        outputs: the tensors to return, any of the file's; those that QuantizeLinear gives and the file's outputs if
            none are named.
        numerics: how sums are requantized and rounded.
        observer: called with each node that has an integer form, its inputs and its result.

    Returns:
        A tensor by its name: codes in their own type where it holds codes, real values elsewhere.

    Raises:
        SimulationError: an input is missing, an output is not there, or a node cannot be run.

    """
    wanted = set(_default_outputs(proto) if outputs is None else outputs)
    constants = {c.name: onnx.numpy_helper.to_array(c) for c in proto.graph.initializer}
    missing = [i.name for i in proto.graph.input if i.name not in feeds and i.name not in constants]
    if missing:
        raise SimulationError(f"no array for the inputs {missing}", remedy="give one per input of the file")
    opsets = {o.domain: o.version for o in proto.opset_import}
    values: dict[str, Value] = {n: Plain(np.asarray(array)) for n, array in (*constants.items(), *feeds.items())}
    last = {name: i for i, node in enumerate(proto.graph.node) for name in node.input}
    found = {name: value.real() for name, value in values.items() if name in wanted}
    sessions: dict[object, Session] = {}
    for i, made in enumerate(proto.graph.node):
        node = Node.of(made, opsets, numerics)
        inputs = [values[name] if name else None for name in made.input]
        results = _results(node, inputs, sessions)
        if observer is not None and not isinstance(results[0], Plain):
            observer(node, inputs, results[0])
        values |= {name: value for name, value in zip(made.output, results, strict=False) if name}
        found |= {name: values[name].real() for name in made.output if name in wanted}
        for name in {*made.input, *made.output}:
            if name and last.get(name, i) <= i:
                del values[name]
    if wanted - set(found):
        raise SimulationError(f"the file has no tensors {sorted(wanted - set(found))}", remedy="check their names")
    return found


def folded(proto: onnx.ModelProto) -> dict[str, Value]:
    """Return every tensor of a file that depends on none of its inputs."""
    opsets = {o.domain: o.version for o in proto.opset_import}
    values: dict[str, Value] = {c.name: Plain(onnx.numpy_helper.to_array(c)) for c in proto.graph.initializer}
    for made in proto.graph.node:
        if all(name in values for name in made.input if name):
            inputs = [values[name] if name else None for name in made.input]
            results = _results(Node.of(made, opsets, NUMERICS), inputs, {})
            values |= {name: value for name, value in zip(made.output, results, strict=False) if name}
    return values


def _default_outputs(proto: onnx.ModelProto) -> list[str]:
    codes = [node.output[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    return [*codes, *(o.name for o in proto.graph.output)]


def _results(node: Node, inputs: Sequence[Value | None], sessions: dict[object, Session]) -> list[Value]:
    op = node.proto.op_type
    integer = None
    if op in FORMS and not node.proto.domain:
        integer = FORMS[op](node, *inputs)
    elif op in FUNCTIONS and isinstance(inputs[0], OnGrid):
        integer = table(inputs[0], lambda x: run_alone(node, [x], sessions)[0])
    elif op in MOVES and len(node.proto.output) == 1:
        integer = _moved(node, inputs, sessions)
    if integer is not None:
        return [integer]
    arrays = [None if value is None else value.real() for value in inputs]
    return [Plain(array) for array in run_alone(node, arrays, sessions)]


def _moved(node: Node, inputs: Sequence[Value | None], sessions: dict[object, Session]) -> Value | None:
    """Return codes moved, or a promise to; None where the operator does more, or no input has a grid."""
    place = MOVES[node.proto.op_type]
    values = [value for value in inputs[place] if value is not None]
    others = [value.real() if value is not None else None for value in inputs[place.stop :]] if place.stop else []
    if all(isinstance(value, Plain) for value in values) or not moves(node.proto.op_type, node.attributes, others):
        return None
    first = values[0]
    if node.proto.op_type == "Transpose" and isinstance(first, OnGrid):
        return turned(first, node.get("perm", list(range(first.steps.ndim))[::-1]))
    move = partial(_rearranged, node, [value.real() for value in inputs[: place.start] if value], others, sessions)
    return moved(values, move) if alike(values) else Moved(values, move)  # type: ignore[arg-type]  # alike: OnGrid


def _rearranged(
    node: Node,
    before: Sequence[Array],
    behind: Sequence[Array | None],
    sessions: dict[object, Session],
    arrays: Sequence[Array],
) -> Array:
    return run_alone(node, [*before, *arrays, *behind], sessions)[0]
