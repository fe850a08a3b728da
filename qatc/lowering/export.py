"""From the lowered graph to a clean ONNX model: torch's exporter, then onnx_ir's passes, then names."""

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir
import torch
from onnx_ir.passes import common
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewriteRuleSet
from onnxscript.rewriter.rules.common import fuse_pad_into_conv_rule
from torch import Tensor, fx

from qatc.errors import LoweringError
from qatc.ir import TensorType
from qatc.lowering.onnx_ops import TRANSLATIONS

_SCOPES = "pkg.torch.onnx.name_scopes"


def export(gm: fx.GraphModule, types: Mapping[str, TensorType], inputs: Sequence[Tensor], opset: int) -> onnx_ir.Model:
    """Return the ONNX model of a lowered graph, with a dynamic batch wherever a size in the inputs' types is None."""
    for node in gm.graph.nodes:
        # The exporter names scopes by this; tracing left the module that the op was first seen in.
        path = str(node.target) if node.op == "call_module" else ""
        node.meta["nn_module_stack"] = {path: (path, type(gm.get_submodule(path)))}
    batch = torch.export.Dim("batch")
    shapes = tuple({i: batch for i, size in enumerate(kind.shape) if size is None} or None for kind in types.values())
    try:
        with _quiet():
            program = torch.onnx.export(
                gm, tuple(inputs), dynamo=True, optimize=False, verbose=False, opset_version=max(opset, _EXPORTED),
                dynamic_shapes=shapes, custom_translation_table=TRANSLATIONS,
            )  # fmt: skip
    except Exception as error:
        raise LoweringError(
            f"torch.onnx could not export the model: {_first_line(error)}",
            remedy="look at the traceback with QATC_LOG=debug; an op without an ONNX form must be rewritten",
        ) from error
    assert program is not None
    model = program.model
    with _quiet():
        clean(model)
    name_signature(model.graph, list(types), output_names(gm))
    rename(model, {name for name, _ in gm.named_modules()})
    return model


def output_names(gm: fx.GraphModule) -> list[str]:
    """Return a name per output tensor: the keys of what the graph returns, or `output`."""
    result = gm.graph.output_node().args[0]
    return list(result) if isinstance(result, dict) else ["output"]


def name_signature(graph: onnx_ir.Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Name inputs and outputs; an output that is an input, a constant or another output becomes a value of its own."""
    for name in {*inputs, *outputs} & set(graph.initializers):
        graph.initializers[name].name = f"{name}:value"
    for value, name in zip(graph.inputs, inputs, strict=True):
        value.name = name
    for position, (value, name) in enumerate(zip(list(graph.outputs), outputs, strict=True)):
        if value.is_graph_input() or value.is_initializer() or value in graph.outputs[:position]:
            node = onnx_ir.node("Identity", [value])
            graph.append(node)
            node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
            graph.outputs[position] = value = node.outputs[0]
        value.name = name
    for value in [value for value in graph.inputs if not value.uses()]:
        graph.inputs.remove(value)


def clean(model: onnx_ir.Model) -> None:
    """Fold what is constant (but for codes, which would become float), and drop what nothing reads."""
    common.NameFixPass()(model)  # the exporter gives a name to several values, which folding refuses
    common.ShapeInferencePass()(model)  # some of the exporter's nodes come without
    make_shapes_constant(model.graph)
    fold_constants(model, should_fold=lambda node: False if node.op_type in _KEPT else None)
    RewriteRuleSet([fuse_pad_into_conv_rule]).apply_to_model(model)
    onnx_ir.passes.Sequential(
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    )(model)


def make_shapes_constant(graph: onnx_ir.Graph) -> None:
    """Give every reshape to a shape with one unknown size, the batch, that shape as a constant with -1 for it."""
    for node in graph:
        shape = node.outputs[0].shape if node.op_type == "Reshape" else None
        if shape is not None and sum(not isinstance(size, int) for size in shape) <= 1 and 0 not in shape:
            sizes = [size if isinstance(size, int) else -1 for size in shape]
            constant = onnx_ir.tensor(np.array(sizes, np.int64), name=f"{node.outputs[0].name}_shape")
            value = onnx_ir.Value(name=constant.name, const_value=constant)
            value.shape, value.type = onnx_ir.Shape([len(sizes)]), onnx_ir.TensorType(onnx_ir.DataType.INT64)
            graph.register_initializer(value)
            node.replace_input_with(1, value)
            node.attributes.pop("allowzero", None)  # no size is 0, and not every importer knows it


_KEPT = frozenset({"QuantizeLinear", "DequantizeLinear"})


def rename(model: onnx_ir.Model, modules: set[str]) -> None:
    """Name nodes and values by the user's modules: node `layer1.conv/Conv`, its module's result `layer1.conv`."""
    graph = model.graph
    fixed = {value.name for value in (*graph.inputs, *graph.outputs)} | set(graph.initializers)
    outputs = set(graph.outputs)
    seen: Counter[str] = Counter()
    values: Counter[str] = Counter()
    scopes = [_scope(node, modules) for node in graph]
    for position, node in enumerate(list(graph)):
        scope = scopes[position]
        base = f"{scope}/{node.op_type}" if scope else node.op_type
        node.name = _unique(base, seen)
        last = scope and scope not in scopes[position + 1 :]
        for number, value in enumerate(node.outputs):
            if value not in outputs:
                inner = node.name if len(node.outputs) == 1 else f"{node.name}:{number}"
                wanted = scope if last and len(node.outputs) == 1 else inner
                value.name = _unique(wanted if wanted not in fixed else f"{wanted}:value", values)
        for number, constant in enumerate(node.inputs):
            if constant is not None and constant.is_initializer() and "." not in (constant.name or ""):
                constant.name = _unique(f"{node.name}/{_PARAMETER_NAMES.get((node.op_type, number), number)}", values)
        node.metadata_props.clear()
        node.doc_string = None
    model.metadata_props.clear()
    graph.metadata_props.clear()
    for constant in list(graph.initializers.values()):
        constant.metadata_props.clear()


# What the exporter's own constants are, by operator and position.
_PARAMETER_NAMES = {
    ("Reshape", 1): "shape", ("Clip", 1): "min", ("Clip", 2): "max", ("Resize", 2): "scales", ("Resize", 3): "sizes",
    ("ReduceMean", 1): "axes",
}  # fmt: skip


def _scope(node: onnx_ir.Node, modules: set[str]) -> str:
    """Return the innermost of the user's modules that the node comes from."""
    text = node.metadata_props.get(_SCOPES, "[]")
    paths = [part.strip(" '\"[]") for part in text.split(",")]
    return next((path for path in reversed(paths) if path in modules), "")


def _unique(name: str, seen: Counter[str]) -> str:
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}_{seen[name] - 1}"


def finished(model: onnx_ir.Model, opset: int, metadata: dict[str, str]) -> onnx.ModelProto:
    """Return the checked file content of that opset, with shapes inferred."""
    model.producer_name = "qatc"
    proto: onnx.ModelProto = onnx_ir.to_proto(model)
    if opset < _EXPORTED:
        proto = downgraded(proto, opset)
    onnx.helper.set_model_props(proto, metadata)
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)
    try:
        onnx.checker.check_model(proto, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    except Exception as error:
        raise LoweringError(f"the lowered graph is not valid ONNX: {_first_line(error)}") from error
    return inferred


def downgraded(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model in an older opset than the exporter writes; a `LoweringError` where an op has no older form."""
    try:
        older = onnx.version_converter.convert_version(proto, max(opset, _LEAST_CONVERTED))
        if opset < _LEAST_CONVERTED:
            # Of what 14 changed in the ops that it shares with 13, only types and defaults are more: the check that
            # follows finds any op that 13 does not have.
            older.opset_import[0].version = opset
            for node in older.graph.node:
                for attribute in [a for a in node.attribute if a.name == "allowzero" and a.i == 0]:
                    node.attribute.remove(attribute)
        onnx.checker.check_model(older, full_check=True)
    except Exception as error:
        raise LoweringError(
            f"the model cannot be written in opset {opset}: {_first_line(error)}", remedy="choose a higher --opset"
        ) from error
    return older


# The oldest opset that torch's exporter writes itself, and the oldest that onnx's converter has all its adapters for.
_EXPORTED = 18
_LEAST_CONVERTED = 14


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep the exporter's own progress and warnings out of the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
