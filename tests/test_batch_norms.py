"""BatchNorm written as a function, frozen, or with an activation, becomes a module that fuses as any does."""

import copy

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.modules.batch_norms import AnyBatchNorm, FrozenBatchNorm
from qatc.modules.fused import FusedFrozenBatchNorm
from qatc.printer import format_graph
from qatc.trace import trace
from tests.batch_norm_models import (
    BatchNormThenAct,
    Frozen,
    GivenStatistics,
    NeverTraining,
    OneBatchNormTwoDresses,
    OwnBatchNorm,
    behind_conv,
)
from tests.check_pass import check_same_function
from tests.models import PreActivation, SharedBatchNorm, images, randomise
from tests.prepared import placed, prepared, reasons
from tools.models import torchvision_models


def kinds(model: nn.Module) -> list[str]:
    """Return what the traced graph calls, after checking that it is the model in both modes."""
    gm = trace(randomise(model), images())
    check_same_function(model, gm, [images()])
    called = [n for n in gm.graph.nodes if n.op not in ("placeholder", "output", "get_attr")]
    return [type(gm.get_submodule(n.target)).__name__ if n.op == "call_module" else n.name for n in called]


def test_a_users_own_batch_norm_is_one_at_its_place() -> None:
    model = behind_conv(OwnBatchNorm(4))
    assert kinds(model) == snapshot(["Conv2d", "AnyBatchNorm", "Conv2d"])
    bn = trace(model, images()).get_submodule("1")
    assert isinstance(bn, AnyBatchNorm)
    assert (bn.eps, bn.momentum, bn.training) == (1e-3, 0.3, True)


def test_its_activation_is_a_module_behind_it() -> None:
    model = behind_conv(BatchNormThenAct(4, nn.ReLU(inplace=True)))
    assert kinds(model) == snapshot(["Conv2d", "BatchNorm2d", "Identity", "ReLU", "Conv2d"])
    assert format_graph(placed(model), locations=False) == snapshot("""\
%input_1 = input() : f32[N,3,8,8]  # input
%input_q = Tracked(%input_1) : f32[N,3,8,8]  u8/asym  # input_q
%_0 = FusedConv2d(%input_q, bn=%1, grid=%input_q) : f32[N,4,8,8]  k3 p1 act=ReLU  w=s8/ch0  # 0
%_0_q = Tracked(%_0) : f32[N,4,8,8]  u8  # 0_q
%_2 = FusedConv2d(%_0_q, grid=%0_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # 2
%_2_q = Tracked(%_2) : f32[N,4,8,8]  u8/asym  # 2_q
return %_2_q
""")


def test_without_inputs_too() -> None:
    gm = trace(behind_conv(BatchNormThenAct(4, nn.ReLU())))
    assert [type(m).__name__ for m in gm.modules()] == snapshot(
        ["Sequential", "Conv2d", "BatchNorm2d", "Identity", "ReLU", "Conv2d"]
    )


def test_it_counts_and_follows_the_mode_that_the_user_gave_it() -> None:
    model = behind_conv(BatchNormThenAct(4, nn.ReLU()))
    model[1].eval()  # type: ignore[index]
    gm = prepared(model)
    gm.train()
    assert model.training
    state = copy.deepcopy(gm.state_dict())
    fresh = qatc.prepare(model, images())
    fresh(images())
    torch.testing.assert_close(fresh.state_dict()["1.running_mean"], state["1.running_mean"], rtol=0, atol=0)
    gm(images())
    assert int(gm.state_dict()["1.num_batches_tracked"]) == int(state["1.num_batches_tracked"]) + 1
    assert not torch.equal(gm.state_dict()["1.running_mean"], state["1.running_mean"])


def test_a_batch_norm_in_eval_mode_trains_with_what_will_deploy() -> None:
    gm = prepared(behind_conv(nn.BatchNorm2d(4)))
    gm.train()
    gm.get_submodule("1").eval()
    qatc.freeze_ranges(gm)
    x = images()
    trained = gm(x)
    with torch.enable_grad():
        torch.testing.assert_close(trained, gm.eval()(x), rtol=0, atol=0)


def test_one_that_computes_the_same_in_both_modes_is_frozen_whatever_it_holds() -> None:
    model = behind_conv(NeverTraining(4))
    assert kinds(model) == snapshot(["Conv2d", "FrozenBatchNorm", "Conv2d"])
    assert {name for name, _ in trace(model).named_parameters()} == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("inputs", [None, "images"])
def test_a_frozen_batch_norm_is_folded_and_never_thawed(inputs: str | None) -> None:
    model = behind_conv(Frozen(4, nn.ReLU())).train()
    gm = qatc.prepare(model, images() if inputs else None)
    bn = gm.get_submodule("1")
    assert isinstance(bn, FrozenBatchNorm)
    assert set(gm.state_dict()) >= set(model.state_dict())
    assert not bn.training
    before = copy.deepcopy(bn.state_dict())
    qatc.freeze_bn(gm, False)
    gm.train()(images())
    assert not bn.training
    torch.testing.assert_close(dict(bn.state_dict()), dict(before), rtol=0, atol=0)
    check_same_function(model, gm, [images()])


def test_a_module_that_only_looks_frozen_is_left() -> None:
    model = behind_conv(Frozen(4, shift=0.5))
    assert kinds(model) == snapshot(["Conv2d", "Frozen", "Conv2d"])


def test_a_frozen_one_alone_is_a_multiply_add_that_stays_frozen() -> None:
    gm = prepared(nn.Sequential(Frozen(3), nn.ReLU()))
    bn = gm.get_submodule("0")
    assert isinstance(bn, FusedFrozenBatchNorm)
    assert bn.running_mean is not None
    mean = bn.running_mean.clone()
    qatc.freeze_bn(gm, False)
    gm.train()(images())
    torch.testing.assert_close(bn.running_mean, mean, rtol=0, atol=0)


def test_float_checkpoints_load_with_a_counter_and_without_one() -> None:
    for norm in (OwnBatchNorm(4), Frozen(4)):
        for model in (behind_conv(norm), nn.Sequential(norm)):
            x = images() if len(model) > 1 else images(4, 4, 8, 8)  # type: ignore[arg-type]
            gm = trace(model, x)
            plain = {name: value.clone() for name, value in model.state_dict().items()}  # without versions
            gm.load_state_dict(plain)
            fused = placed(behind_conv(norm))
            assert not fused.load_state_dict(behind_conv(norm).state_dict(), strict=False).unexpected_keys
            counted = {**plain, f"{len(model) // 2}.num_batches_tracked": torch.tensor(3)}  # type: ignore[arg-type]
            gm.load_state_dict(counted)


def test_statistics_by_other_names_are_arguments_and_the_op_is_float() -> None:
    model = GivenStatistics()
    assert kinds(model) == snapshot(["Conv2d", "GivenBatchNorm", "relu", "Conv2d"])
    gm = placed(model)
    assert format_graph(gm, locations=False) == snapshot("""\
%x = input() : f32[N,3,8,8]  # x
%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
%conv = FusedConv2d(%x_q, grid=%x_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # conv
%conv_q = Tracked(%conv) : f32[N,4,8,8]  u8/asym  # conv_q
%mean = parameter(mean) : f32[4]  # mean
%var = parameter(var) : f32[4]  # var
%gamma = parameter(gamma) : f32[4]  # gamma
%beta = parameter(beta) : f32[4]  # beta
%batch_norm = GivenBatchNorm(%conv_q, weight=%gamma, bias=%beta, running_mean=%mean, running_var=%var) : f32[N,4,8,8]  eps=0.001 momentum=0.2  # batch_norm
%relu = ReLU(%batch_norm) : f32[N,4,8,8]  # relu
%relu_q = Tracked(%relu) : f32[N,4,8,8]  u8  # relu_q
%head = FusedConv2d(%relu_q, grid=%relu_q) : f32[N,4,8,8]  k3 p1  w=s8/ch0  # head
%head_q = Tracked(%head) : f32[N,4,8,8]  u8/asym  # head_q
return %head_q
""")  # noqa: E501  (the dump has long lines)
    assert reasons(gm) == snapshot(
        {
            "batch_norm": "its statistics are not those of one module, under BatchNorm's names",
            "relu": "its statistics are not those of one module, under BatchNorm's names",
        }
    )


def test_batch_norms_of_several_places_are_left_alone_correctly() -> None:
    for model in (PreActivation(), SharedBatchNorm(), OneBatchNormTwoDresses()):
        float_model = randomise(model)
        gm = placed(float_model)
        check_same_function(float_model, gm, [images()])
    assert format_graph(placed(OneBatchNormTwoDresses()), locations=False) == snapshot("""\
%x = input() : f32[N,3,8,8]  # x
%x_q = Tracked(%x) : f32[N,3,8,8]  u8/asym  # x_q
%conv = FusedConv2d(%x_q, bn=%bn, grid=%x_q) : f32[N,3,8,8]  k3 p1  w=s8/ch0  # conv
%conv_q = Tracked(%conv) : f32[N,3,8,8]  u8/asym  # conv_q
%max_pool2d = MaxPool2d(%conv_q) : f32[N,3,4,4]  k2 s2  # max_pool2d
%bn_1 = FusedBatchNorm(%max_pool2d, grid=%conv_q) : f32[N,3,4,4]  w=s8/ch0  # bn
%relu = ReLU(%bn_1) : f32[N,3,4,4]  # relu
%relu_q = Tracked(%relu) : f32[N,3,4,4]  u8  # relu_q
return %relu_q
""")


def library_norms() -> dict[str, nn.Module]:
    """Return the BatchNorms of torchvision, timm and transformers."""
    torchvision_models()
    from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d  # noqa: PLC0415  (torchvision needs the shim)
    from torchvision.ops import FrozenBatchNorm2d  # noqa: PLC0415
    from transformers.models.detr.modeling_detr import DetrFrozenBatchNorm2d  # noqa: PLC0415

    return {
        "torchvision": FrozenBatchNorm2d(4, eps=1e-3),
        "timm": BatchNormAct2d(4, eps=1e-3, act_layer=nn.ReLU),
        "timm, frozen": FrozenBatchNormAct2d(4, act_layer=nn.ReLU),
        "transformers": DetrFrozenBatchNorm2d(4),
    }


@pytest.mark.parametrize("name", ["torchvision", "timm", "timm, frozen", "transformers"])
def test_those_of_the_libraries_fuse(name: str) -> None:
    norms = library_norms()
    model = behind_conv(randomise(norms[name]))
    with torch.no_grad():
        for buffer, value in norms[name].named_buffers():
            if value.is_floating_point():
                value.copy_(torch.rand(4) + (0.5 if buffer == "running_var" else -0.5))
    gm = placed(model)
    check_same_function(model, gm, [images()])
    layers: list[nn.Module] = [m for m in gm.children() if type(m).__name__ == "FusedConv2d"]
    fused = layers[0]
    assert (getattr(fused, "activation", None) is not None) == name.startswith("timm")
    assert not [row for row in gm.report.rows if row.kind == "BatchNormalization"]


def test_a_frozen_one_in_half_precision_stays_so() -> None:
    model = behind_conv(Frozen(4)).to(torch.bfloat16)
    gm = trace(model, images().to(torch.bfloat16))
    out: Tensor = gm.eval()(images().to(torch.bfloat16))
    assert out.dtype == torch.bfloat16
