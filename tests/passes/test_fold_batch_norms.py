import copy
from collections import Counter
from typing import Any

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.lowering.lowered import lowered_proto
from qatc.passes import FoldBatchNorms
from qatc.printer import diff, format_graph
from qatc.trace import trace
from tests.check_pass import close, evaluated
from tests.models import ConvBnAct, PreActivation, SharedBatchNorm, conv, images, randomise
from tests.prepared import BEFORE_QUANTIZERS

FOLDED = qatc.QConfig(batch_norm="folded")


def folded(model: nn.Module) -> tuple[Any, str]:
    """Return the graph behind the pass, and what the pass changed; the evaluated function stays."""
    gm = trace(randomise(model), [images()])
    for step in BEFORE_QUANTIZERS:
        step.run(gm)
    text = format_graph(gm, locations=False)
    assert FoldBatchNorms().run(gm)
    result = format_graph(gm, locations=False)
    assert not FoldBatchNorms().run(gm)
    close(evaluated(gm, [images()]), evaluated(model, [images()]), "the function")
    return gm, diff(text, result)


def test_weight_and_bias_become_the_folded_ones_and_the_batch_norm_is_gone() -> None:
    model: Any = ConvBnAct(conv(3, 4, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    gm, change = folded(model)
    assert change == snapshot("""\
-%conv = FusedConv2d(%x, bn=%bn) : f32[N,4,8,8]  k3 p1 act=ReLU  # conv
+%conv = FusedConv2d(%x) : f32[N,4,8,8]  k3 p1 act=ReLU  # conv
""")
    assert sorted(gm.state_dict()) == ["conv.bias", "conv.weight"]
    factor = model.bn.weight / (model.bn.running_var + model.bn.eps).sqrt()
    torch.testing.assert_close(gm.conv.weight, model.conv.weight * factor.view(4, 1, 1, 1))
    torch.testing.assert_close(gm.conv.bias, model.bn.bias - model.bn.running_mean * factor)
    assert isinstance(gm.conv.bias, nn.Parameter)


def test_a_shared_batch_norm_folds_into_each_layer_and_one_alone_keeps_its_statistics() -> None:
    gm, _ = folded(SharedBatchNorm())
    assert not [name for name, _ in gm.named_parameters() if name.startswith("bn")]
    gm, _ = folded(PreActivation())
    before = copy.deepcopy(gm.state_dict())
    gm.train()(images(seed=1))
    assert all(torch.equal(value, before[name]) for name, value in gm.state_dict().items())


def test_a_shared_weight_keeps_its_batch_norms_with_running_statistics() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv = conv(3, 4), conv(4, 4)
            self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Any:
            return self.second(self.conv(self.first(self.conv(self.stem(x)))))

    gm, change = folded(Tied())
    assert change == ""
    assert gm.conv.bn_frozen


def test_a_code_per_channel_is_the_same_folded_before_training_during_or_never() -> None:
    """To a scale per channel folding is a change of the scale alone: codes differ in sign at most."""
    model = randomise(ConvBnAct(bn=nn.BatchNorm2d(4)))
    plain: Any = qatc.prepare(model, images())
    before: Any = qatc.prepare(model, images(), config=FOLDED)
    own = plain.conv.weight_quantizer.codes(plain.conv.weight.detach())
    during = plain.conv.weight_quantizer.codes(plain.conv.fold(plain.bn).weight.detach())
    assert torch.equal(before.conv.weight_quantizer.codes(before.conv.weight.detach()), during)
    assert torch.equal(during, own * plain.bn.weight.sign().view(4, 1, 1, 1))


class BatchNormFirst(nn.Module):
    """A BatchNorm of the input, before a layer that alone reads it."""

    def __init__(self, layer: nn.Module, bn: nn.Module | None = None) -> None:
        super().__init__()
        self.bn, self.layer, self.next = bn or nn.BatchNorm2d(3), layer, nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        return self.next(self.layer(self.bn(x)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, 3, bias=False, stride=2, padding="valid"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, 1),
    ],
    ids=["no padding", "valid", "reflect", "pointwise"],
)
def test_a_batch_norm_in_front_folds_into_a_layer_that_pads_no_zeros(layer: nn.Module) -> None:
    gm, _ = folded(BatchNormFirst(layer))
    assert sorted(gm.state_dict()) == ["layer.bias", "layer.weight"]
    assert not gm.report.notes


def test_a_node_and_its_quantizer_are_gone_from_the_file_with_it() -> None:
    _, change = folded(BatchNormFirst(nn.Conv2d(3, 4, 3)))
    assert change == snapshot("""\
-%bn = FusedBatchNorm(%x) : f32[N,3,8,8]  # bn
-%layer = FusedConv2d(%bn, bn=%next) : f32[N,4,6,6]  k3  # layer
+%layer = FusedConv2d(%x) : f32[N,4,6,6]  k3  # layer
""")
    counts = []
    for mode in ("frozen", "folded"):
        gm = qatc.prepare(randomise(BatchNormFirst(nn.Conv2d(3, 4, 3))), images(), config=qatc.QConfig(batch_norm=mode))
        qatc.calibrate(gm, [images()], progress=False)
        counts.append(Counter(node.op_type for node in lowered_proto(gm).proto.graph.node))
    assert counts[0] - counts[1] == {"Conv": 1, "QuantizeLinear": 1, "DequantizeLinear": 3}


def test_so_it_does_into_groups_and_linear_layers() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.pool, self.bn, self.conv = (
                conv(3, 4),
                nn.MaxPool2d(2),
                nn.BatchNorm2d(4),
                nn.Conv2d(4, 6, 3, groups=2),
            )
            self.norm, self.fc = nn.BatchNorm1d(24), nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Any:
            return self.fc(self.norm(self.conv(self.bn(self.pool(self.stem(x)))).flatten(1)))

    gm, _ = folded(Grouped())
    assert not [name for name in gm.state_dict() if "norm" in name or "bn" in name]


@pytest.mark.parametrize("layer", [conv(3, 4), nn.ConvTranspose2d(3, 4, 3)], ids=["zero padding", "transposed"])
def test_at_a_border_of_zeros_it_stays_with_its_running_statistics(layer: nn.Module) -> None:
    gm, _ = folded(BatchNormFirst(layer))
    assert "bn.weight" in gm.state_dict()
    assert gm.bn.bn_frozen
    why = "bn stays a multiply-add of its own: at the border of layer zeros stand for what it makes of its input"
    assert gm.report.notes == (why,)


def test_what_something_else_reads_stays() -> None:
    class ReadTwice(BatchNormFirst):
        def forward(self, x: Tensor) -> Any:
            y = self.bn(x)
            return self.next(self.layer(y)).sum() + y.sum()

    gm, _ = folded(ReadTwice(nn.Conv2d(3, 4, 1)))
    assert "bn.weight" in gm.state_dict()
