from collections import OrderedDict
from typing import Any

from inline_snapshot import snapshot
from torch import nn

from qatc.passes import DedupModules
from qatc.trace import trace
from tests.check_pass import check_pass
from tests.models import SharedBatchNorm, SharedBlock, SharedConv, SharedRelu, conv, images


def test_a_relu_called_twice_becomes_two() -> None:
    check_pass(
        DedupModules(),
        SharedRelu(),
        snapshot("""\
-%relu_1 = ReLU(%b) : f32[N,4,8,8]  # relu
+%relu_1 = ReLU(%b) : f32[N,4,8,8]  # relu__call1
"""),
    )


def test_a_convolution_called_three_times_becomes_three_over_one_weight() -> None:
    gm: Any = check_pass(
        DedupModules(),
        SharedConv(),
        snapshot("""\
-%conv_1 = Conv2d(%conv) : f32[N,4,8,8]  k3 p1  # conv
-%conv_2 = Conv2d(%conv_1) : f32[N,4,8,8]  k3 p1  # conv
+%conv_1 = Conv2d(%conv) : f32[N,4,8,8]  k3 p1  # conv__call1
+%conv_2 = Conv2d(%conv_1) : f32[N,4,8,8]  k3 p1  # conv__call2
"""),
    )
    assert gm.conv__call1.weight is gm.conv.weight is gm.conv__call2.weight
    assert [name for name, _ in gm.named_parameters()] == ["stem.weight", "stem.bias", "conv.weight", "conv.bias"]


def test_a_batch_norm_called_twice_stays_one_for_its_statistics() -> None:
    check_pass(DedupModules(), SharedBatchNorm(), snapshot(""))


def test_every_layer_of_a_block_called_twice_gets_a_call_site() -> None:
    check_pass(
        DedupModules(),
        SharedBlock(),
        snapshot("""\
-%block_3 = Conv2d(%block_2) : f32[N,4,8,8]  k3 p1  # block.0
+%block_3 = Conv2d(%block_2) : f32[N,4,8,8]  k3 p1  # block.0__call1
-%block_5 = ReLU(%block_4) : f32[N,4,8,8]  # block.2
+%block_5 = ReLU(%block_4) : f32[N,4,8,8]  # block.2__call1
"""),
    )


def test_a_model_that_calls_each_module_once_is_left() -> None:
    check_pass(DedupModules(), nn.Sequential(conv(3, 4), nn.ReLU()), snapshot(""))


def test_a_name_that_is_taken_is_not_used_again() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(OrderedDict(relu=relu, relu__call1=conv(3, 3), again=relu))
    check_pass(
        DedupModules(),
        model,
        snapshot("""\
-%relu_1 = ReLU(%relu__call1) : f32[N,3,8,8]  # relu
+%relu_1 = ReLU(%relu__call1) : f32[N,3,8,8]  # relu__call1_1
"""),
    )


def test_a_hook_can_be_put_on_each_of_the_modules() -> None:
    """torch refers to the dict of hooks weakly, which a plain dict does not allow."""
    gm = trace(SharedRelu())
    DedupModules().run(gm)
    seen: list[str] = []
    for name in ("relu", "relu__call1"):
        gm.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    gm(images())
    assert seen == ["relu", "relu__call1"]
