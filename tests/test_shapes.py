"""Types of inserted nodes are those that a run of the network gives."""

import operator

import torch
from torch import fx

from qatc import ir
from qatc.shapes import infer_type
from qatc.trace import trace
from tests.attention_models import Projected
from tests.models import Functional, Resize, Sizes, images

MODELS = ((Functional(), images()), (Sizes(), images()), (Resize(), images()), (Projected(), images(4, 6, 8)))


def test_types_are_those_of_a_run() -> None:
    for model, x in MODELS:
        gm = trace(model, [x])
        for node in gm.graph.nodes:
            if node.op in ("call_function", "call_method") and ir.tensor_type(node) is not None:
                assert infer_type(node) == ir.tensor_type(node), node.name


def test_a_batch_that_is_split_stays_the_batch() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    ir.set_tensor_type(x, ir.TensorType(torch.float32, (None, 3, 8, 8)))
    windows = graph.call_method("view", (x, -1, 7, 3, 8, 8))
    rows = graph.call_function(operator.mul, (graph.call_method("size", (x, 0)), 3))
    flat = graph.call_method("reshape", (windows, rows, -1))
    assert [str(infer_type(node)) for node in (windows, flat)] == ["f32[N,7,3,8,8]", "f32[N,64]"]


def test_unknown_stays_unknown() -> None:
    gm = trace(Functional())
    assert {infer_type(node) for node in gm.graph.nodes} == {None}
    graph = fx.Graph()
    x = graph.placeholder("x")
    ir.set_tensor_type(x, ir.TensorType(torch.float32, (None, 4)))
    untyped = graph.placeholder("untyped")
    assert infer_type(graph.call_function(torch.add, (x, untyped))) is None
    assert infer_type(graph.call_function(torch.mm, (x, x))) is None, "it does not fit"
    assert infer_type(graph.call_method("chunk", (x, 2))) is None, "several tensors have no type"
