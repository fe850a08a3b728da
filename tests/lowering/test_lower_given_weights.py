"""Layers that the graph gives their weights, transposed ones, and BatchNorms by other names: the file's integers."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.config import config_of
from qatc.lowering import lowered_proto, verify
from qatc.passes import qat_pipeline
from qatc.prepared import PreparedFor, remember
from qatc.targets import target_of
from qatc.trace import trace
from tests.batch_norm_models import Frozen, GivenStatistics, OneBatchNormTwoDresses, Pooled, Rows, behind_conv
from tests.given_weights import Conditional, FunctionalOnly, Packed, Parametrized, StandardisedBlock, Tied
from tests.models import conv, images
from tests.passes.test_fuse_transposed import Up
from tests.prepared import every_target, prepared, reasons

MODELS = {
    "functional": FunctionalOnly, "standardised": StandardisedBlock, "packed": Packed, "parametrized": Parametrized,
    "tied": Tied, "conditional": Conditional, "bare": lambda: conv(3, 4), "up": Up, "grouped up": lambda: Up(2),
    "given statistics": GivenStatistics, "frozen": lambda: behind_conv(Frozen(4, nn.ReLU())),
    "frozen alone": lambda: nn.Sequential(Frozen(3), conv(3, 4)), "two dresses": OneBatchNormTwoDresses,
    "pooled": Pooled, "rows": Rows,
}  # fmt: skip


# With power-of-two scales no code may differ, end to end; w4a4 learns its steps.
CASES = [
    *((name, "onnxruntime", "w8a8-pow2") for name in MODELS),
    *((name, "tensorrt", "w8a8") for name in MODELS),
    *((name, "onnxruntime", "w4a4") for name in ("functional", "standardised", "packed")),
]


@pytest.mark.parametrize(("name", "target", "config"), CASES)
def test_integers_equal_the_simulation(name: str, target: str, config: str, tmp_path: Path) -> None:
    model = prepared(MODELS[name](), target, config)
    model.train()(images(seed=3))
    qatc.save(model.eval(), tmp_path / "model.pt")
    again = qatc.load(tmp_path / "model.pt")
    placeholder = next(str(n.target) for n in model.graph.nodes if n.op == "placeholder")
    data = {placeholder: images(16, 3, 8, 8, seed=4).numpy()}
    check = verify(again, lowered_proto(again), data)
    assert check.passed, str(check)
    torch.testing.assert_close(again(images()), model(images()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["functional", "standardised", "packed", "parametrized"])
def test_the_file_holds_weight_codes_and_no_arithmetic_on_weights(name: str) -> None:
    model = prepared(MODELS[name]())
    proto = lowered_proto(model).proto
    ops = Counter(node.op_type for node in proto.graph.node)
    assert not set(ops) & {"Sub", "Div", "ReduceMean", "Sqrt", "Split", "Slice", "Transpose", "Identity", "Mul"}
    layers = [name for name, m in model.named_modules() if getattr(m, "weight_quantizer", None) is not None]
    constants = {c.name for c in proto.graph.initializer}
    assert layers
    assert {f"{layer}.weight_codes" for layer in layers} <= constants


def test_names_of_the_file_are_those_of_the_users_modules() -> None:
    proto = lowered_proto(prepared(StandardisedBlock())).proto
    assert [n.name for n in proto.graph.node if n.op_type in ("Conv", "Add")] == snapshot(
        ["stem.conv2d/Conv", "body.conv2d/Conv", "add/Add", "head/Conv"]
    )


class Doubled(nn.ConvTranspose2d):
    """A layer of the user's that computes in a way of its own, as a module that a tracer would leave whole."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return 2 * super().forward(x, output_size)


def test_a_subclass_that_computes_otherwise_is_float_and_guarded() -> None:
    model = nn.Sequential(conv(3, 4), nn.ConvTranspose2d(4, 4, 2, stride=2), conv(4, 4))
    gm = trace(model, images())
    gm.get_submodule("1").__class__ = Doubled
    target, config = target_of("onnxruntime"), config_of("w8a8")
    qat_pipeline(target, config).run(gm)
    remember(gm, PreparedFor(target, config))
    qatc.calibrate(gm, [images()], progress=False)
    assert reasons(gm) == {"1": "Doubled computes in a way of its own"}
    assert verify(gm, lowered_proto(gm), {"input": images(8, 3, 8, 8).numpy()}).passed


@every_target
def test_a_float_layer_with_computed_weights_stays_float_in_the_file(target: str) -> None:
    config = qatc.QConfig(rules=(qatc.Rule("body", quantize=False),))
    gm = qatc.prepare(StandardisedBlock(), images(), target, config)
    qatc.calibrate(gm, [images()], progress=False)
    lowered = lowered_proto(gm)
    assert "body.conv2d.weight" in {c.name for c in lowered.proto.graph.initializer}
    assert verify(gm, lowered, {"x": images(8, 3, 8, 8).numpy()}).passed
