"""Torch's exporter, and what is done to the files that it writes: nothing is computed in them that is constant."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir
import torch
from onnx_ir.passes import common
from onnxscript import opset18
from onnxscript.optimizer import fold_constants
from torch import Tensor, fx

from qatc import ir
from qatc.errors import LoweringError, first_line

# The oldest opset that the exporter writes itself, and the number of samples that it is shown: with one, it would take
# the batch for a constant.
_LEAST_OPSET, _SAMPLES = 18, 2


def exported(part: fx.GraphModule, inputs: Sequence[fx.Node], wanted: Sequence[fx.Node], opset: int) -> onnx_ir.Model:
    """Return a part of a graph as a file of its own.

    `inputs` are the nodes that its inputs stand for, `wanted` those whose results it computes.
    """
    batch = torch.export.Dim("batch")
    dims = [_dims(node, wanted[0]) for node in inputs]
    shapes = tuple(
        {d: _times(batch, size) for d, size in enumerate(sizes) if isinstance(size, ir.BatchSize)} or None
        for sizes in dims
    )
    try:
        with _quiet():
            program = torch.onnx.export(
                part, tuple(_example(node, sizes) for node, sizes in zip(inputs, dims, strict=True)),
                dynamo=True, optimize=False, verbose=False, opset_version=max(opset, _LEAST_OPSET),
                dynamic_shapes=shapes, custom_translation_table=_TRANSLATIONS,
            )  # fmt: skip
            assert program is not None
            clean(program.model)
    except Exception as error:
        raise LoweringError(
            f"torch.onnx could not export {', '.join(f'%{node.name}' for node in wanted)}: {_reason(error)}",
            where=str(ir.source_of(wanted[0])),
            remedy="look at the traceback with QATC_LOG=debug; an op without an ONNX form must be rewritten",
        ) from error
    return program.model


def _dims(node: fx.Node, reader: fx.Node) -> tuple[int | ir.BatchSize, ...]:
    kind = ir.tensor_type(node)
    assert kind is not None
    found: list[int | ir.BatchSize] = []
    for size in ir.dims_of(node) or [ir.BatchSize() if size is None else size for size in kind.shape]:
        if isinstance(size, ir.OpenSize):
            raise LoweringError(
                f"%{reader.name} has no form for sizes that are open",
                where=str(ir.source_of(reader)),
                remedy="leave them out of dynamic (--dynamic), or rewrite the op",
            )
        found.append(size)
    return tuple(found)


def _times(batch: Any, size: ir.BatchSize) -> Any:
    scaled = batch if size.factor == 1 else size.factor * batch
    return scaled + size.rest if size.rest else scaled


def _example(node: fx.Node, dims: Iterable[int | ir.BatchSize]) -> Tensor:
    kind = ir.tensor_type(node)
    assert kind is not None
    sizes = [size if isinstance(size, int) else size.factor * _SAMPLES + size.rest for size in dims]
    return torch.zeros(sizes, dtype=kind.dtype)


def clean(model: onnx_ir.Model) -> None:
    """Fold what is constant, and drop what nothing reads."""
    common.NameFixPass()(model)  # the exporter gives a name to several values, which folding refuses
    common.ShapeInferencePass()(model)  # some of the exporter's nodes come without
    make_shapes_constant(model.graph)
    fold_constants(model)
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


def _conv3d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Any:
    # The exporter's own gives a convolution without a bias one of two dimensions (onnxscript 0.7).
    strides, pads, dilations = (list(given) * (3 // len(given)) for given in (stride, padding, dilation))
    inputs = (x, weight) if bias is None else (x, weight, bias)
    return opset18.Conv(*inputs, strides=strides, pads=[*pads, *pads], dilations=dilations, group=groups)


_TRANSLATIONS: dict[Any, Callable[..., Any]] = {torch.ops.aten.conv3d.default: _conv3d}


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


def _reason(error: Exception) -> str:
    """Return the first line of what the exporter's own error was raised from, which says less."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    return first_line(error)
