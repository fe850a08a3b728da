"""Every kind of module that qatc knows is written by its own table, and the file computes what the module does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, fx, nn

from qatc import ir
from qatc.lowering.emit import emitted, pieces
from qatc.lowering.emit.builder import DeclinedError
from qatc.lowering.emit.layers import LAYERS
from qatc.lowering.emit.table import MODULES, form_of
from qatc.lowering.finish import finished
from qatc.lowering.lower_modules import INACTIVE
from qatc.lowering.lowered_modules import FloatLayer
from qatc.modules import kinds, ops
from qatc.modules.batch_norms import GivenBatchNorm
from qatc.runtimes import RUNTIMES
from tests.lowering.emitted_modules import CASES

# Float32 sums and functions of a runtime's own: each is off by a few of the last of 24 bits.
TOLERANCE = 2e-6


def graph_of(module: nn.Module, few: Sequence[Any], more: Sequence[Any]) -> tuple[fx.GraphModule, list[Tensor]]:
    """Return a graph that calls the module, with types from inputs at two batches, and its inputs at the greater."""
    graph, inputs = fx.Graph(), []

    def given(first: Any, second: Any) -> Any:
        if isinstance(first, list):
            return [given(*pair) for pair in zip(first, second, strict=True)]
        if not isinstance(first, Tensor):
            return first
        inputs.append(second)
        node = graph.placeholder(f"x{len(inputs)}")
        set_types(node, first, second)
        return node

    args = tuple(given(*pair) for pair in zip(few, more, strict=True))
    root = nn.Module()
    root.add_module("op", module)
    result = graph.call_module("op", args)
    with torch.no_grad():
        set_types(result, module(*few), module(*more))
    graph.output(result)
    return fx.GraphModule(root, graph).eval(), inputs


def set_types(node: fx.Node, few: Tensor, more: Tensor) -> None:
    pairs = list(zip(few.shape, more.shape, strict=True))
    ir.set_tensor_type(node, ir.TensorType(few.dtype, tuple(a if a == b else None for a, b in pairs)))
    ir.set_dims(node, tuple(a if a == b else ir.BatchSize(b - a, 3 * a - 2 * b) for a, b in pairs))


def file_of(module: nn.Module, few: Sequence[Any], more: Sequence[Any]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    gm, inputs = graph_of(module, few, more)
    proto = finished(emitted(gm, 18), 18, {})
    read = {value.name for value in proto.graph.input}
    return proto, {f"x{n}": x.numpy() for n, x in enumerate(inputs, start=1) if f"x{n}" in read}


@pytest.mark.parametrize("name", CASES)
def test_the_table_writes_what_the_module_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "exported", None)  # torch's exporter is not needed
    module, make = CASES[name]
    proto, feeds = file_of(module.eval(), make(2), make(3))
    with torch.no_grad():
        expected = module(*make(3)).numpy()
    found = next(iter(RUNTIMES["onnxruntime-unoptimized"].session(proto)(feeds).values()))
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * max(1.0, np.abs(expected).max()))
    followers = [d for value in (*proto.graph.input, *proto.graph.output) for d in value.type.tensor_type.shape.dim]
    assert all(d.HasField("dim_value") or "batch" in d.dim_param for d in followers)


# Modules that others stand for by the time that a file is written.
REPLACED = {GivenBatchNorm, nn.RReLU, nn.modules.batchnorm._BatchNorm}


def test_every_kind_that_qatc_knows_is_in_the_table_and_tried() -> None:
    known = {kind for row, _ in kinds._KINDS for kind in (row if isinstance(row, tuple) else (row,))}
    known |= {getattr(ops, name) for name in ops.__all__}
    assert known - REPLACED <= set(MODULES)
    tried_whole = {kind for kind in LAYERS if kind.__module__ == FloatLayer.__module__}  # by the tests of lowering
    assert set(MODULES) - tried_whole - set(INACTIVE) == {type(module) for module, _ in CASES.values()} - set(INACTIVE)


class Louder(nn.ReLU):
    """A layer of the user's that computes in a way of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """Return more than the base does."""
        return 2 * super().forward(x)


class Named(nn.ReLU):
    """One that computes what its base does."""


def hooked() -> nn.Module:
    module = nn.ReLU()
    module.register_forward_hook(lambda module, args, y: y + 1)
    return module


@pytest.mark.parametrize("module", [Louder(), hooked(), nn.CosineSimilarity()])
def test_what_computes_otherwise_is_not_taken_for_its_base(module: nn.Module) -> None:
    with pytest.raises(DeclinedError):
        form_of(module)
    assert form_of(Named()) is form_of(nn.ReLU())
