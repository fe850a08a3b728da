"""Attention taken apart computes what it did, has its products quantized, and no mask on a grid."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc import ir
from qatc.lowering import lowered_proto, verify
from qatc.modules import ops
from qatc.passes import DecomposeComposites, DedupModules, FunctionalToModule
from qatc.quantizers import Quantizer
from qatc.trace import trace
from tests.attention_models import (
    ByHand,
    CrossAttention,
    MaskAsInput,
    Padded,
    Projected,
    SelfAttention,
    Weights,
    later,
)
from tests.check_pass import check_same_function, close, evaluated, trained
from tests.models import images, randomise
from tests.prepared import every_target, specs

# A mask by head is of one batch size; of a sequence without a batch, dimension 0 is its length.
pytestmark = pytest.mark.filterwarnings("ignore:the batch is fixed:qatc.QatcWarning")

FLOAT_MASK = torch.zeros(6, 6).masked_fill(later(), -math.inf)
TOKENS = images(4, 6, 8)

MODELS: dict[str, nn.Module] = {
    "self": SelfAttention(),
    "self, no weights wanted": SelfAttention({"need_weights": False}),
    "sequence first": SelfAttention(batch_first=False),
    "no biases": SelfAttention(bias=False),
    "learned key and value": SelfAttention(add_bias_kv=True),
    "learned key and value, sequence first": SelfAttention(add_bias_kv=True, batch_first=False),
    "a zero key": SelfAttention(add_zero_attn=True),
    "dropout": SelfAttention(dropout=0.3),
    "a mask of bools": SelfAttention({"attn_mask": later()}),
    "a float mask": SelfAttention({"attn_mask": FLOAT_MASK}),
    "a mask by head": SelfAttention({"attn_mask": later().repeat(8, 1, 1)}),
    "a causal hint": SelfAttention({"attn_mask": later(), "is_causal": True, "need_weights": False}),
    "masks, a learned and a zero key": SelfAttention({"attn_mask": later()}, add_bias_kv=True, add_zero_attn=True),
    "padding": Padded(),
    "padding and a zero key": Padded(add_zero_attn=True),
    "weights": Weights(),
    "weights by head": Weights(average=False),
    "cross": CrossAttention(),
    "cross, other widths": CrossAttention(kdim=4, vdim=6),
    "cross, other widths and no biases": CrossAttention(kdim=4, vdim=6, bias=False),
    "function": Projected(),
    "function, scaled": Projected(scale=0.3),
    "function, causal": Projected(is_causal=True),
    "function, a mask of bools": Projected(attn_mask=~later()),
    "function, a float mask": Projected(attn_mask=FLOAT_MASK),
    "by hand": ByHand(),
    "by hand, finfo.min": ByHand(torch.finfo(torch.float32).min),
}
every_model = pytest.mark.parametrize("name", MODELS)


def taken_apart(model: nn.Module, inputs: Sequence[Tensor] | None) -> qatc.PreparedModel:
    gm = trace(model, inputs)
    for step in (DedupModules(), DecomposeComposites(), FunctionalToModule()):
        step.run(gm)
    return gm


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "untyped"])
@every_model
def test_it_computes_what_it_did(name: str, typed: bool) -> None:
    model = randomise(MODELS[name])
    gm = taken_apart(model, [TOKENS] if typed else None)
    check_same_function(model, gm, [TOKENS])
    kinds = [type(module) for _, module in ir.module_calls(gm)]
    assert kinds.count(ops.MatMul) == 2
    assert nn.MultiheadAttention not in kinds
    fewer = [TOKENS if name == "a mask by head" else TOKENS[:3]]  # that mask is of one batch size
    close(evaluated(gm, fewer), evaluated(model, fewer), "another batch")


def test_one_sequence_without_a_batch() -> None:
    model = randomise(SelfAttention({"attn_mask": later()}, add_bias_kv=True, add_zero_attn=True))
    check_same_function(model, taken_apart(model, [TOKENS[0]]), [TOKENS[0]])


def test_weights_that_nothing_reads_are_not_computed() -> None:
    gm = taken_apart(SelfAttention(), [TOKENS])
    assert not any(isinstance(module, ops.Mean) for _, module in ir.module_calls(gm))


def test_both_results_may_be_given_back() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.attn(x, x, x, need_weights=False), self.attn(x, x, x)

    model = randomise(Both()).eval()
    with torch.no_grad():
        (y, none), (z, weights) = taken_apart(model, [TOKENS]).eval()(TOKENS)
        (y0, none0), (z0, weights0) = model(TOKENS)
    assert none is None
    assert none0 is None
    for ours, theirs in ((y, y0), (z, z0), (weights, weights0)):
        close(ours, theirs, "a result")


def test_a_query_that_may_see_nothing_gets_zeros() -> None:
    model = randomise(Projected(attn_mask=torch.zeros(6, 6).bool()))
    gm = taken_apart(model, [TOKENS])
    close(evaluated(gm, [TOKENS]), evaluated(model, [TOKENS]), "output")
    assert torch.isfinite(trained(gm, [TOKENS])).all()
    assert all(torch.isfinite(p.grad).all() for p in gm.parameters() if p.grad is not None)


def test_dropout_follows_the_mode() -> None:
    for model in (SelfAttention(dropout=0.5), Projected(p=0.5)):
        gm = taken_apart(randomise(model), [TOKENS])
        assert torch.equal(gm.eval()(TOKENS), gm(TOKENS))
        assert not torch.equal(gm.train()(TOKENS), gm(TOKENS))


@every_target
@every_model
def test_products_are_quantized_and_no_mask_has_a_grid(name: str, target: str) -> None:
    model = randomise(MODELS[name]).eval()
    gm = qatc.prepare(model, TOKENS, target)
    qatc.calibrate(gm, [TOKENS], progress=False)
    products = [node for node, module in ir.module_calls(gm) if isinstance(module, ops.MatMul)]
    for node in products:
        assert all(ir.grid_source(arg) is not None for arg in node.args), f"%{node.name} reads floats"
    for quantizer in specs(gm):
        module = gm.get_submodule(quantizer)
        assert isinstance(module, Quantizer)
        low = getattr(module, "low", torch.zeros(1))
        assert float(low.min()) > -100, f"{quantizer} covers a mask"
    with torch.no_grad():
        close(gm.eval()(TOKENS), evaluated(model, [TOKENS]), "quantized", 0.1)


@every_target
def test_a_mask_among_the_inputs_has_no_grid(target: str) -> None:
    mask = (torch.arange(6) < torch.tensor([6, 4, 2, 5])[:, None]).float()
    model = randomise(MaskAsInput())
    gm = qatc.prepare(model, (TOKENS, mask), target)
    qatc.calibrate(gm, [(TOKENS, mask)], progress=False)
    assert not [name for name in specs(gm) if name.startswith("mask")]
    assert {row.name: row.reason for row in gm.report.rows}["add"] == (
        "a mask, or scores with a mask or a bias added: infinities fit no grid"
    )
    close(evaluated(gm, [TOKENS, mask]), evaluated(model, [TOKENS, mask]), "quantized", 0.1)


@pytest.mark.parametrize(("name", "target", "config"), [
    ("self", "onnxruntime", "w8a8-pow2"),
    ("function, causal", "onnxruntime", "w8a8-pow2"),
    ("function, a mask of bools", "onnxruntime", "w8a8"),
    ("by hand", "onnxruntime", "w8a8"),
    ("padding", "onnxruntime", "w8a8"),
    ("self", "tensorrt", "w8a8"),
    ("by hand", "tensorrt", "w8a8-pow2"),
])  # fmt: skip
def test_the_file_computes_the_same_integers(name: str, target: str, config: str) -> None:
    gm = qatc.prepare(randomise(MODELS[name]).eval(), TOKENS, target, config)
    qatc.calibrate(gm, [TOKENS], progress=False)
    lowered = lowered_proto(gm)
    check = verify(gm, lowered, {"x": images(7, 6, 8, seed=1).numpy()})
    assert check.passed, str(check)
    assert lowered.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
