"""Configurations as TOML and back; what is wrong in a file is named with its place."""

import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot
from torch import nn

import qatc
from qatc.config import PRESETS, LayerConfig, QConfig, Rule, config_of
from qatc.errors import ConfigError
from qatc.quantizers import ACTIVATION_QUANTIZERS, WEIGHT_QUANTIZERS
from qatc.targets import TARGETS
from tests.config.strategies import configs
from tests.models import ResidualIdentity, images, randomise


@given(configs())
@settings(deadline=None)
def test_what_is_written_reads_back(config: QConfig) -> None:
    text = config.to_toml()
    assert QConfig.parse(text) == config
    assert QConfig.parse(text).to_toml() == text


def test_the_form_of_the_file(tmp_path: Path) -> None:
    config = QConfig(
        LayerConfig(weight_bits=4), (Rule(":first", weight_bits=8), Rule(nn.Linear, quantize=False)), target="tensorrt"
    )
    assert config.to_toml() == snapshot("""\
rules = [
    { match = ":first", weight_bits = 8 },
    { match = "type:torch.nn.Linear", quantize = false },
]
pow2 = false
target = "tensorrt"
batch_norm = "batch"

[default]
weight_bits = 4
activation_bits = 8
weight_quantizer = "tracked"
activation_quantizer = "tracked"
per_channel = true
quantize = true
ste = "masked"
""")
    path = tmp_path / "qat.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    read = config_of(path)
    assert read == config_of(str(path)) == QConfig.from_toml(path)
    assert read.rules[1] == Rule("type:torch.nn.Linear", quantize=False)


def test_a_file_goes_over_the_preset_that_it_starts_from() -> None:
    text = """
preset = "w4a4-pow2"
pow2 = false
[default]
activation_bits = 6
[[rules]]
match = "fc"
quantize = false
"""
    base = PRESETS["w4a4-pow2"]
    assert QConfig.parse(text) == QConfig(
        LayerConfig(4, 6, "lsq", "lsq"), (*base.rules, Rule("fc", quantize=False)), pow2=False
    )


@pytest.mark.parametrize("path_of", [str, Path])
def test_prepare_takes_a_file(tmp_path: Path, path_of: type) -> None:
    path = tmp_path / "qat.toml"
    path.write_text('preset = "w8a8"\n[[rules]]\nmatch = "type:Conv2d"\nweight_bits = 5\n', encoding="utf-8")
    gm = qatc.prepare(randomise(ResidualIdentity()), images(), config=path_of(path))
    found = {name: m.spec.bits for name, m in gm.named_modules() if name.endswith("weight_quantizer")}
    assert set(found.values()) == {5}


def test_a_predicate_is_code_and_not_written() -> None:
    def small(name: str, module: nn.Module) -> bool:
        return False

    with pytest.raises(ConfigError) as caught:
        QConfig(rules=(Rule(small, quantize=False),)).to_toml()
    assert "test_a_predicate_is_code_and_not_written.<locals>.small, which is code and cannot be written" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[default]\nweight_bits = 18",
            snapshot("""\
18 bits asked for
  at: qat.toml:2, default.weight_bits
  try: choose 1 to 16\
"""),
        ),
        (
            "[default]\nweight_bits = '8'",
            snapshot("""\
weight_bits is '8', not a whole number
  at: qat.toml:2, default.weight_bits
  try: it may be: 1 to 16\
"""),
        ),
        (
            "[default]\nquantize = 1",
            snapshot("""\
quantize is 1, not true or false
  at: qat.toml:2, default.quantize\
"""),
        ),
        (
            "[default]\nweight_quantizer = 'lsqq'",
            snapshot("""\
unknown weight quantizer 'lsqq'
  at: qat.toml:2, default.weight_quantizer
  try: did you mean 'lsq'? there are: tracked, fixed, lsq, lsq_plus, learned_range, sat, \
sat_asymmetric, sat_default, sat_full_range, ternary, binary\
"""),
        ),
        (
            "[[rules]]\nmatch = ':first'\n\n[[rules]]\nmatch = 're:('",
            snapshot("""\
match is 're:(', no regular expression: missing ), unterminated subpattern at position 0
  at: qat.toml:5, rules 2.match
  try: escape what is meant as it stands: '\\.'\
"""),
        ),
        (
            "rules = [{match = ':frist', weight_bits = 8}]",
            snapshot("""\
match is ':frist'
  at: qat.toml, rules 1.match
  try: write ':first' or ':last', or the name of a layer\
"""),
        ),
        (
            "[[rules]]\nweight_bits = 8",
            snapshot("""\
the key 'match' is missing
  at: qat.toml:1, rules 1
  try: add match = ...\
"""),
        ),
        (
            "rules = 3",
            snapshot("""\
rules is 3, not a tuple (in TOML an array) of which each item is a Rule
  at: qat.toml:1, rules\
"""),
        ),
        (
            "rule = []",
            snapshot("""\
unknown key 'rule'
  at: qat.toml:1, rule
  try: did you mean 'rules'? keys here: default, rules, pow2, target, batch_norm, schedule, preset\
"""),
        ),
        (
            "default = 3",
            snapshot("""\
default is 3, not a LayerConfig
  at: qat.toml:1, default\
"""),
        ),
        (
            "target = 'tensor_rt'",
            f"""\
unknown target 'tensor_rt'
  at: qat.toml:1, target
  try: did you mean 'tensorrt'? there are: {", ".join(TARGETS)}\
""",
        ),
        (
            "pow2 = tru",
            snapshot("""\
this is no TOML: Invalid value (at line 1, column 8)
  at: qat.toml
  try: docs/configuration.md has examples\
"""),
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        QConfig.parse(text, "qat.toml")
    assert str(caught.value) == message


def test_an_unknown_key_proposes_the_nearest_of_its_table() -> None:
    with pytest.raises(ConfigError) as caught:
        QConfig.parse("\n[default]\nweight_bit = 3", "qat.toml")
    what, where, remedy = str(caught.value).splitlines()
    assert (what, where) == ("unknown key 'weight_bit'", "  at: qat.toml:3, default.weight_bit")
    assert remedy.startswith("  try: did you mean 'weight_bits'? keys here: weight_bits, ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        qatc.prepare(nn.Linear(2, 2), config=tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="a dict is no configuration"):
        config_of({})  # type: ignore[arg-type]


def test_the_target_given_goes_before_that_of_the_configuration() -> None:
    model, x = randomise(ResidualIdentity()), images()
    config = QConfig(target="tensorrt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for target in (None, "tensorrt", TARGETS["tensorrt"]):
            made_for = qatc.prepare(model, x, target, config).prepared_for
            assert made_for is not None
            assert made_for.target.name == "tensorrt"
    with pytest.warns(qatc.QatcWarning, match="meant for tensorrt; the model is prepared for onnxruntime, as asked"):
        made_for = qatc.prepare(model, x, "onnxruntime", config).prepared_for
    assert made_for is not None
    assert made_for.target.name == "onnxruntime"


@given(st.sampled_from(sorted(ACTIVATION_QUANTIZERS)), st.sampled_from(sorted(WEIGHT_QUANTIZERS)))
def test_every_quantizer_can_be_named(activation: str, weight: str) -> None:
    text = f"[default]\nactivation_quantizer = '{activation}'\nweight_quantizer = '{weight}'"
    assert QConfig.parse(text).default == LayerConfig(activation_quantizer=activation, weight_quantizer=weight)
