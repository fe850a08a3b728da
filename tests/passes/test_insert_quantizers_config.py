"""What a configuration changes of what the pass does."""

import pytest
from inline_snapshot import snapshot
from torch import nn

import qatc
from qatc.config import LayerConfig, QConfig, Rule
from qatc.errors import ConfigError
from qatc.modules.fused import Fused
from tests.models import (
    Classifier,
    Concat,
    PreActivation,
    SharedConv,
    conv,
    images,
)
from tests.prepared import placed, reasons, specs


def test_an_excluded_layer_keeps_float_weights_and_asks_for_no_grid() -> None:
    config = QConfig(rules=(Rule("conv2", quantize=False),))
    gm = placed(Classifier(), config=config)
    assert list(specs(gm)) == snapshot(["conv.weight_quantizer", "fc.weight_quantizer", "x_q", "conv_q", "flatten_q"])
    assert isinstance(gm.conv2, Fused)
    assert gm.conv2.weight_quantizer is None
    assert reasons(gm) == snapshot(
        {"conv2": "excluded by a rule of the configuration", "flatten": "none of its inputs is on a grid"}
    )


def test_a_rule_for_a_module_called_more_than_once_speaks_of_every_call() -> None:
    gm = placed(SharedConv(), config=QConfig(rules=(Rule("conv", weight_bits=4),)))
    assert {name: spec.bits for name, spec in specs(gm).items() if spec.axis == 0} == snapshot(
        {
            "stem.weight_quantizer": 8,
            "conv.weight_quantizer": 4,
            "conv__call1.weight_quantizer": 4,
            "conv__call2.weight_quantizer": 4,
        }
    )


def test_first_and_last_layer_keep_eight_bits_in_w4a4() -> None:
    gm = placed(Classifier(), config="w4a4")
    assert {name: spec.bits for name, spec in specs(gm).items()} == snapshot(
        {
            "conv.weight_quantizer": 8,
            "conv2.weight_quantizer": 4,
            "fc.weight_quantizer": 8,
            "x_q": 8,
            "conv_q": 4,
            "conv2_q": 8,
        }
    )


def test_a_tensor_is_as_wide_as_its_widest_reader_asks_and_a_float_reader_asks_nothing() -> None:
    rules: tuple[Rule, ...] = (
        Rule("c", activation_bits=5),
        Rule("concat", activation_bits=6),
        Rule("head", activation_bits=7),
    )
    config = QConfig(LayerConfig(activation_bits=4), rules)
    gm = placed(Concat(), config=config)
    assert {name: spec.bits for name, spec in specs(gm).items() if spec.axis is None} == snapshot(
        {"x_q": 4, "a_q": 6, "b_q": 6, "c_q": 6, "concat_q": 7, "head_q": 7}
    )
    rules = (*rules, Rule("concat", activation_bits=8, quantize=False))
    gm = placed(Concat(), config=QConfig(LayerConfig(activation_bits=4), rules))
    assert {name: spec.bits for name, spec in specs(gm).items() if spec.axis is None} == snapshot(
        {"x_q": 4, "a_q": 5, "b_q": 4, "c_q": 5, "concat_q": 7, "head_q": 7}
    )


def test_a_rule_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        placed(Classifier(), config=QConfig(rules=(Rule("conv_2", weight_bits=4),)))
    assert str(caught.value) == snapshot("""\
rule 'conv_2' matches no layer
  try: names are those of the model's own modules; the nearest: 'conv2', 'conv'\
""")


def test_quantizers_begin_in_the_models_mode() -> None:
    for training in (True, False):
        gm = qatc.prepare(Classifier().train(training), images())
        assert {module.training for module in gm.modules()} == {training}


def test_a_step_per_channel_is_of_the_weight_and_one_step_of_the_folded_weight() -> None:
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4))
    for per_channel, shape in ((True, (4,)), (False, (1,))):
        config = QConfig(LayerConfig(weight_quantizer="lsq", per_channel=per_channel))
        quantizer = qatc.prepare(model, images(), config=config).get_submodule("0.weight_quantizer")
        assert quantizer.log_scale.shape == shape


def test_the_factor_of_a_bn_keeps_eight_bits_a_channel() -> None:
    gm = placed(PreActivation(), config="w4a4")
    assert {name: str(spec) for name, spec in specs(gm).items() if "weight" in name} == snapshot(
        {"bn1.weight_quantizer": "s8/ch0", "conv.weight_quantizer": "s8/ch0", "bn2.weight_quantizer": "s8/ch0"}
    )
