import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

from qatc import ir
from qatc.config import LayerConfig, QConfig, Rule
from qatc.constants import value_of
from qatc.passes import DedupModules, FunctionalToLayer, FunctionalToModule, FuseConvBnAct
from qatc.quantizers import WeightLSQ
from qatc.trace import trace
from tests.check_pass import check_pass
from tests.given_weights import Conditional, FunctionalOnly, Packed, Parametrized, StandardisedBlock, Tied
from tests.models import conv, images, randomise
from tests.prepared import placed, prepared, reasons, specs

BEFORE = (DedupModules(),)
EVERY = (FunctionalOnly, StandardisedBlock, Packed, Parametrized, Tied)


def test_functions_with_weights_become_layers_that_are_given_them() -> None:
    check_pass(
        FunctionalToLayer(),
        FunctionalOnly(),
        snapshot("""\
-%conv2d = conv2d(%x, %w1, %b1, padding='same') : f32[N,8,8,8]
+%conv2d = FusedConv2d(%x, weight=%w1, bias=%b1) : f32[N,8,8,8]  k3 psame  # conv2d
-%conv2d_1 = conv2d(%relu, %w2, stride=2, padding=1, groups=2) : f32[N,4,4,4]
+%conv2d_1 = FusedConv2d(%relu, weight=%w2) : f32[N,4,4,4]  k3 s2 p1 g2  # conv2d_1
-%conv_transpose2d = conv_transpose2d(%conv2d_1, %up, stride=2) : f32[N,2,8,8]
+%conv_transpose2d = FusedConvTranspose2d(%conv2d_1, weight=%up) : f32[N,2,8,8]  k2 s2  # conv_transpose2d
-%linear = linear(%flatten, %w3, bias=%b3) : f32[N,5]
+%linear = FusedLinear(%flatten, weight=%w3, bias=%b3) : f32[N,5]  # linear
"""),
        before=BEFORE,
    )


def test_parts_of_a_packed_weight_and_transposed_ones_are_weights() -> None:
    check_pass(
        FunctionalToLayer(),
        Packed(),
        snapshot("""\
-%linear = linear(%mean, %getitem_3, %getitem) : f32[N,4]
-%linear_1 = linear(%mean, %getitem_4, %getitem_1) : f32[N,4]
-%linear_2 = linear(%mean, %getitem_5, %getitem_2) : f32[N,4]
+%linear = FusedLinear(%mean, weight=%getitem_3, bias=%getitem) : f32[N,4]  # linear
+%linear_1 = FusedLinear(%mean, weight=%getitem_4, bias=%getitem_1) : f32[N,4]  # linear_1
+%linear_2 = FusedLinear(%mean, weight=%getitem_5, bias=%getitem_2) : f32[N,4]  # linear_2
-%addmm = addmm(%out_bias, %cat_1, %out) : f32[N,6]
+%t = t(%out) : f32[6,12]
+%addmm = FusedLinear(%cat_1, weight=%t, bias=%out_bias) : f32[N,6]  # linear_3
-%matmul = matmul(%addmm, %last) : f32[N,2]
+%t_1 = t(%last) : f32[2,6]
+%matmul = FusedLinear(%addmm, weight=%t_1) : f32[N,2]  # linear_4
"""),
        before=BEFORE,
    )


def test_the_weight_may_be_computed_and_the_layer_takes_bn_and_activation_in() -> None:
    check_pass(
        FuseConvBnAct(),
        StandardisedBlock(),
        snapshot("""\
-%conv2d = FusedConv2d(%x, weight=%truediv, bias=%stem_bias) : f32[N,4,8,8]  k3 p1  # stem.conv2d
-%bn1 = BatchNorm2d(%conv2d) : f32[N,4,8,8]  # bn1
-%relu = ReLU(%bn1) : f32[N,4,8,8]  # relu
+%conv2d = FusedConv2d(%x, weight=%truediv, bias=%stem_bias, bn=%bn1) : f32[N,4,8,8]  k3 p1 act=ReLU  # stem.conv2d
-%conv2d_1 = FusedConv2d(%relu, weight=%truediv_1, bias=%body_bias) : f32[N,4,8,8]  k3 p1  # body.conv2d
-%bn2 = BatchNorm2d(%conv2d_1) : f32[N,4,8,8]  # bn2
-%add_2 = Add(%bn2, %relu) : f32[N,4,8,8]  # add
+%conv2d_1 = FusedConv2d(%conv2d, weight=%truediv_1, bias=%body_bias, bn=%bn2) : f32[N,4,8,8]  k3 p1  # body.conv2d
+%add_2 = Add(%conv2d_1, %conv2d) : f32[N,4,8,8]  # add
"""),
        before=(DedupModules(), FunctionalToLayer(), FunctionalToModule()),
    )


def test_a_bare_layer_is_a_model() -> None:
    check_pass(
        FunctionalToLayer(),
        conv(3, 4),
        snapshot("""\
-%conv2d = conv2d(%input_1, %weight, %bias, (1, 1), (1, 1), (1, 1), 1) : f32[N,4,8,8]
+%conv2d = FusedConv2d(%input_1, weight=%weight, bias=%bias) : f32[N,4,8,8]  k3 p1  # conv2d
"""),
        before=BEFORE,
    )
    check_pass(
        FunctionalToLayer(),
        nn.Linear(6, 4),
        snapshot("""\
-%linear = linear(%input_1, %weight, %bias) : f32[N,4]
+%linear = FusedLinear(%input_1, weight=%weight, bias=%bias) : f32[N,4]  # linear
"""),
        images(8, 6),
        before=BEFORE,
    )


def test_a_weight_computed_from_data_leaves_the_call_and_says_why_and_such_a_bias_is_added_behind() -> None:
    gm = check_pass(
        FunctionalToLayer(),
        Conditional(),
        snapshot("""\
-%conv2d_1 = conv2d(%conv2d, %w, %mean_1) : f32[N,4,6,6]
-return %conv2d_1
+%conv2d_1 = FusedConv2d(%conv2d, weight=%w) : f32[N,4,6,6]  k1  # conv2d
+%reshape = reshape(%mean_1, (-1, 1, 1)) : f32[4,1,1]
+%add = add(%conv2d_1, %reshape) : f32[N,4,6,6]
+return %add
"""),
        before=BEFORE,
    )
    assert [ir.why_float(n) for n in gm.graph.nodes if n.name == "conv2d"] == ["its weight is computed from data"]
    assert [why for why in reasons(placed(Conditional())).values() if "computed" in why] == [
        "its weight is computed from data"
    ]


def test_what_is_computed_from_parameters_gets_no_grid_and_is_no_op_of_the_report() -> None:
    gm = placed(StandardisedBlock())
    assert list(specs(gm)) == snapshot(
        [
            "stem.conv2d.weight_quantizer",
            "stem.conv2d_q",
            "body.conv2d.weight_quantizer",
            "body.conv2d_q",
            "head.weight_quantizer",
            "x_q",
            "relu__call1_q",
            "head_q",
        ]
    )
    assert [row.name for row in gm.report.rows] == snapshot(
        ["stem.conv2d", "body.conv2d", "add", "relu__call1", "head"]
    )


def test_a_parameter_is_a_tensor_where_data_meets_it_and_a_weight_where_it_is_one() -> None:
    gm = placed(Tied())
    assert sorted(specs(gm)) == snapshot(
        [
            "add_1_q",
            "add_q",
            "conv2d.weight_quantizer",
            "conv2d_1.weight_quantizer",
            "conv2d_1_q",
            "conv2d_q",
            "position_q",
            "x_q",
        ]
    )
    layers = [node for node in gm.graph.nodes if ir.given_tensors(node)]
    assert [node.kwargs["weight"].name for node in layers] == snapshot(["w", "mul"])


@pytest.mark.parametrize("kind", EVERY)
def test_quantized_training_reaches_every_parameter(kind: type[nn.Module]) -> None:
    gm = prepared(kind(), config="w4a4").train()
    out: Tensor = gm(images())
    out.square().sum().backward()
    for name, parameter in gm.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_learned_step_begins_from_the_computed_weight() -> None:
    gm = placed(StandardisedBlock(), config=QConfig(LayerConfig(weight_quantizer="lsq")))
    node = next(n for n in gm.graph.nodes if ir.given_tensors(n))
    weight = value_of(gm, ir.given_tensors(node)["weight"])
    quantizer = gm.get_submodule(f"{node.target}.weight_quantizer")
    assert isinstance(quantizer, WeightLSQ)
    assert torch.equal(quantizer.step(), WeightLSQ.of(quantizer.spec, weight).step())


def test_a_rule_calls_the_layer_by_the_name_of_the_module_that_the_function_is_in() -> None:
    gm = placed(StandardisedBlock(), config=QConfig(rules=(Rule("body", weight_bits=4),)))
    bits = {name: spec.bits for name, spec in specs(gm).items() if name.endswith("weight_quantizer")}
    assert bits == snapshot(
        {"stem.conv2d.weight_quantizer": 8, "body.conv2d.weight_quantizer": 4, "head.weight_quantizer": 8}
    )


def test_without_inputs_shapes_are_those_of_the_weights() -> None:
    gm = trace(randomise(FunctionalOnly()))
    assert FunctionalToLayer().run(gm)
    assert [n.target for n in gm.graph.nodes if n.op == "call_module"] == snapshot(
        ["conv2d", "conv2d_1", "conv_transpose2d", "linear"]
    )
