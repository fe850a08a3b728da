import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.config import config_of
from qatc.passes import InsertQuantizers, LeaveClips
from qatc.quantizers import Quantizer
from qatc.targets import TARGETS
from tests.check_pass import check_pass
from tests.models import Classifier, ResidualIdentity, conv, images, randomise
from tests.prepared import BEFORE_QUANTIZERS

BEFORE = (*BEFORE_QUANTIZERS, InsertQuantizers(TARGETS["onnxruntime"], config_of("w8a8")))


def test_layers_and_clips_are_told_of_the_quantizer_that_alone_reads_them() -> None:
    gm = check_pass(
        LeaveClips(),
        ResidualIdentity(),
        snapshot("""\
-%stem_0 = FusedConv2d(%x_q, bn=%stem.1, grid=%x_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # stem.0
+%stem_0 = FusedConv2d(%x_q, bn=%stem.1, grid=%x_q, then=%stem.0_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # stem.0
-%conv1 = FusedConv2d(%stem_0_q, grid=%stem.0_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # conv1
+%conv1 = FusedConv2d(%stem_0_q, grid=%stem.0_q, then=%conv1_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # conv1
-%conv2 = FusedConv2d(%conv1_q, grid=%conv1_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv2
+%conv2 = FusedConv2d(%conv1_q, grid=%conv1_q, then=%conv2_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv2
-%relu_1 = ReLU(%add) : f32[N,4,8,8]  # relu__call1
+%relu_1 = ReLU(%add, then=%relu__call1_q) : f32[N,4,8,8]  # relu__call1
-%head = FusedConv2d(%relu__call1_q, grid=%relu__call1_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # head
+%head = FusedConv2d(%relu__call1_q, grid=%relu__call1_q, then=%head_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # head
"""),
        before=BEFORE,
    )
    overwriting = [n for n, m in gm.named_modules() if isinstance(m, Quantizer) and m.overwrites]
    assert overwriting == snapshot(["stem.0_q", "conv1_q", "conv2_q", "relu__call1_q", "head_q"])


class GivesItsFeatures(nn.Module):
    """The model's outputs are the tensors between its layers, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = conv(3, 4), conv(4, 4)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.conv(x))
        return self.head(x), x, x + 1.0


def test_a_tensor_that_something_else_reads_is_left() -> None:
    gm = check_pass(
        LeaveClips(),
        GivesItsFeatures(),
        snapshot("""\
-%conv = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # conv
+%conv = FusedConv2d(%x_q, grid=%x_q, then=%conv_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # conv
-%head = FusedConv2d(%conv_q, grid=%conv_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # head
+%head = FusedConv2d(%conv_q, grid=%conv_q, then=%head_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # head
"""),
        before=BEFORE,
    )
    assert [n for n, m in gm.named_modules() if isinstance(m, Quantizer) and m.overwrites] == snapshot(
        ["conv_q", "head_q"]
    )


class Mixed(nn.Module):
    """What gives tensors of its own: a sum, a product, a matrix product, a norm, activations, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.norm, self.head = conv(3, 4), conv(4, 4), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Any:
        x = F.silu(self.conv(x))
        x = x + x * torch.sigmoid(self.gate(x))
        x = F.hardswish(torch.cat([x, x - 0.5 * x], 1))
        x = self.head(self.norm(x) @ x.transpose(-1, -2))
        return self.head(F.gelu(x))


def test_sums_products_and_the_like_are_written_over() -> None:
    model = qatc.prepare(randomise(Mixed()), images())
    assert [n for n, m in model.named_modules() if isinstance(m, Quantizer) and m.overwrites] == snapshot(
        ["conv_q", "silu_q", "gate_q", "mul_q", "add_q", "sub_q", "concat_q", "norm_q", "matmul_q", "gelu_q"]
    )


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("config", ["w8a8", "w4a4", "w8a8-pow2"])
@pytest.mark.parametrize("kind", [ResidualIdentity, Classifier, Mixed])
def test_a_training_step_is_the_same_bit_for_bit(kind: type[nn.Module], config: str) -> None:
    told = qatc.prepare(randomise(kind()), images(), config=config)
    qatc.calibrate(told, [images()], progress=False)
    told.train()
    plain: Any = copy.deepcopy(told)
    for node in plain.graph.nodes:
        node.kwargs = {name: value for name, value in node.kwargs.items() if name != "then"}
    plain.recompile()
    for quantizer in (m for m in plain.modules() if isinstance(m, Quantizer)):
        quantizer.overwrites = False
    for _ in range(2):
        for ours, theirs in zip(step(told, images()), step(plain, images()), strict=True):
            assert torch.equal(ours, theirs)


def test_who_hooks_a_layer_sees_what_it_gives() -> None:
    model: Any = qatc.prepare(randomise(ResidualIdentity()), images())
    qatc.calibrate(model, [images()], progress=False)
    model.train()
    seen: list[Tensor] = []
    for module in (model.conv1, model.relu__call1):
        module.register_forward_hook(lambda m, given, result: seen.append(result))
    (model(images()).sum() + 0.0 * sum(y.square().sum() for y in seen)).backward()
    kept = [y.clone() for y in seen]
    assert all(bool((y >= 0).all()) for y in seen)
    assert all(len(y.unique()) > 256 for y in kept)  # not written over by codes


def test_in_evaluation_nothing_is_left_or_written_over() -> None:
    model: Any = qatc.prepare(randomise(ResidualIdentity()), images())
    qatc.calibrate(model, [images()], progress=False)
    seen: list[Tensor] = []
    handle = model.conv1_q.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    model.eval()(images()).sum().backward()
    handle.remove()
    assert len(seen) == 1
    assert bool((seen[0] >= 0).all())
    assert len(seen[0].unique()) > 256
