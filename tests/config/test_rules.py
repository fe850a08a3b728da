from collections.abc import Callable

import pytest
import torch
from inline_snapshot import snapshot
from torch import nn

import qatc
from qatc.config import FOUNDERS, PRESETS, Layer, LayerConfig, Matcher, QConfig, Rule, config_of
from qatc.errors import ConfigError
from qatc.spec import QuantSpec
from tests.models import ResidualIdentity, images, randomise

LAYERS = [
    Layer("stem.conv", nn.Conv2d(3, 4, 3), first=True),
    Layer("stem.relu", nn.ReLU()),
    Layer("body.0.conv", nn.Conv2d(4, 4, 1)),
    Layer("body.1.conv", nn.Conv2d(4, 4, 3)),
    Layer("body.1.conv__call1", nn.Conv2d(4, 4, 3), written="body.1.conv"),
    Layer("fc", nn.Linear(4, 2), last=True),
]


@pytest.mark.parametrize(
    ("match", "hits"),
    [
        ("fc", ["fc"]),
        ("body.1.conv", ["body.1.conv", "body.1.conv__call1"]),
        ("body.1.conv__call1", ["body.1.conv__call1"]),
        ("body.*", ["body.0.conv", "body.1.conv", "body.1.conv__call1"]),
        ("*.relu", ["stem.relu"]),
        (r"re:body\.\d\.conv", ["body.0.conv", "body.1.conv", "body.1.conv__call1"]),
        ("re:stem", []),  # the whole name, not a part of it
        ("body", []),  # a container is no layer
        (nn.Linear, ["fc"]),
        (nn.Module, [layer.name for layer in LAYERS]),
        ("type:Linear", ["fc"]),
        ("type:torch.nn.Linear", ["fc"]),
        ("type:torch.nn.modules.linear.Linear", ["fc"]),
        ("type:_ConvNd", ["stem.conv", "body.0.conv", "body.1.conv", "body.1.conv__call1"]),
        ("type:nn.Linear", []),
        (lambda name, module: isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1), ["body.0.conv"]),
        (":first", ["stem.conv"]),
        (":last", ["fc"]),
    ],
)
def test_a_rule_speaks_of_the_layers_that_it_matches(match: Matcher, hits: list[str]) -> None:
    assert [layer.name for layer in LAYERS if Rule(match).matches(layer)] == hits


def test_the_last_rule_that_matches_wins_setting_by_setting() -> None:
    rules = (Rule("*", weight_bits=4, activation_bits=6), Rule("fc", weight_bits=8), Rule("body.*", quantize=False))
    found = QConfig(LayerConfig(per_channel=False), rules).resolve(LAYERS)
    assert found["fc"] == LayerConfig(8, 6, per_channel=False)
    assert found["body.0.conv"] == LayerConfig(4, 6, per_channel=False, quantize=False)
    assert found["stem.conv"] == LayerConfig(4, 6, per_channel=False)


@pytest.mark.parametrize(
    ("match", "message"),
    [
        (
            "body.1.con",
            snapshot("""\
rule 'body.1.con' matches no layer
  try: names are those of the model's own modules; the nearest: 'body.1.conv', 'body.0.conv', 'body.1.conv__call1'\
"""),
        ),
        (
            "re:stem.cnv",
            snapshot("""\
rule 're:stem.cnv' matches no layer
  try: names are those of the model's own modules; the nearest: 'stem.conv', 'stem.relu', 'body.1.conv'\
"""),
        ),
        (
            "zzz",
            snapshot("""\
rule 'zzz' matches no layer
  try: names are those of the model's own modules; the first: 'stem.conv', 'stem.relu', 'body.0.conv', 'body.1.conv'\
"""),
        ),
        (
            "type:Conv3d",
            snapshot("""\
rule 'type:Conv3d' matches no layer
  try: types of this model: the nearest: 'Conv2d', '_ConvNd', 'torch.nn.Conv2d'\
"""),
        ),
        (
            "Conv2d",
            snapshot("""\
rule 'Conv2d' matches no layer
  try: to match by type, write 'type:Conv2d'\
"""),
        ),
        (
            nn.LSTM,
            snapshot("""\
rule <class 'torch.nn.modules.rnn.LSTM'> matches no layer
  try: check the type against print(model)\
"""),
        ),
    ],
)
def test_a_rule_that_matches_nothing_is_an_error_that_names_the_nearest(match: Matcher, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        QConfig(rules=(Rule(match, weight_bits=4),)).resolve(LAYERS)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (lambda n: QuantSpec(n), 1),
        (lambda n: LayerConfig(n), 1),
        (lambda n: LayerConfig(activation_bits=n), 2),
        (lambda n: Rule("fc", activation_bits=n), 2),
    ],
)
def test_a_width_out_of_range_is_refused_where_it_is_written(make: Callable[[int], object], least: int) -> None:
    for bits in (17, -4, least - 1):
        with pytest.raises(ConfigError, match=f"bits asked for\n  try: choose {least} to 16"):
            make(bits)
    make(least)


@pytest.mark.parametrize("name", FOUNDERS)
def test_a_founding_systems_preset_prepares_and_trains(name: str) -> None:
    config = config_of(name)
    gm = qatc.prepare(randomise(ResidualIdentity()), images(), config=name).train()
    assert gm.prepared_for is not None
    assert gm.prepared_for.target.name == (config.target or "onnxruntime")
    qatc.calibrate(gm, [images()], progress=False)
    optimizer = torch.optim.SGD(qatc.param_groups(gm, lr=0.01))
    schedule = config.schedule or qatc.Schedule()
    if config.schedule is not None:
        assert qatc.Schedule.of(gm) == config.schedule
    running = schedule.start(gm, optimizer, steps_per_epoch=2, epochs=2)
    for _ in range(4):
        optimizer.zero_grad()
        gm(images(seed=running.count)).square().mean().backward()
        optimizer.step()
        running.step()
    assert running.stage == "quantize"
    ends = {row.name for row in gm.report.rows if "excluded by a rule" in row.reason}
    assert ends == ({"stem.0", "head"} if name.startswith("nnabla") else set())
    assert QConfig.parse(config.to_toml()) == config


def test_a_model_without_a_schedule_says_so() -> None:
    with pytest.raises(ConfigError, match="has no schedule"):
        qatc.Schedule.of(qatc.prepare(randomise(ResidualIdentity()), images()))


def test_presets() -> None:
    assert list(PRESETS) == ["w8a8", "w8a8-pow2", "w4a4", "w4a4-pow2"]
    assert config_of("w4a4-pow2").pow2
    found = config_of("w4a4").resolve(LAYERS)
    assert {name: (c.weight_bits, c.activation_bits) for name, c in found.items() if "relu" not in name} == snapshot(
        {
            "stem.conv": (8, 8),
            "body.0.conv": (4, 4),
            "body.1.conv": (4, 4),
            "body.1.conv__call1": (4, 4),
            "fc": (8, 8),
        }
    )
    config = QConfig()
    assert config_of(config) is config


def test_an_unknown_preset_proposes_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        config_of("w8a8_pow2")
    text = str(caught.value)
    assert text.startswith("unknown config 'w8a8_pow2'\n  try: did you mean 'w8a8-pow2'? presets: w8a8, w8a8-pow2, ")
    assert text.endswith("or a QConfig, or a .toml file")
