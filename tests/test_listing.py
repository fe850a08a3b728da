"""The targets as text and as data."""

import json

import pytest

import qatc
from qatc.cli import lower_main
from qatc.errors import ConfigError
from qatc.targets import TARGETS


def test_every_target_is_a_line_with_its_summary_and_can_be_looked_up() -> None:
    listing = qatc.targets()
    lines = str(listing).splitlines()
    assert [target.name for target in listing] == list(TARGETS)
    assert len(listing) == len(TARGETS)
    for name, target in TARGETS.items():
        assert listing[name] is target
        assert f"{name}: {target.summary}" in lines
        assert any(line.split()[0] == name for line in lines[2:])


def test_the_rules_of_a_target_have_a_line_per_operator() -> None:
    text = qatc.targets().rules("tidl")
    rows = {line.split()[0]: line for line in text.splitlines()}
    assert set(TARGETS["tidl"].ops) <= set(rows)
    assert "symmetric" in rows["Mul"]
    assert "symmetric" not in rows["Conv"]
    assert "Clip, Relu" in rows["Conv"]
    assert "inputs of the network: symmetric" in text
    assert "runtime option: advanced_options:prequantized_model = 1" in text
    assert "u16 1.52588e-05@0" in qatc.targets().rules("qnn")
    assert "written as parts: Swish" in qatc.targets().rules("onnxruntime")
    assert "no integer kernel" in qatc.targets().rules("onnxruntime")
    assert all(f"{name}: " in qatc.targets().rules() for name in TARGETS)


def test_an_unknown_target_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'tidl'"):
        qatc.targets().rules("tidll")
    with pytest.raises(ConfigError, match="did you mean 'qnn'"):
        qatc.targets()["qn"]


def test_the_listing_is_data_for_json() -> None:
    data = json.loads(json.dumps(qatc.targets().to_dict()))
    assert data["qnn"]["ops"]["Tanh"]["fixed"][1] == {
        "bits": 16, "scale": 1 / 32768, "zero_point": 32768, "signed": False,
    }  # fmt: skip
    assert data["tidl-tda4vm"]["pow2"] is True
    assert data["tensorrt"]["epilogues"]["Conv"] == ["Clip", "Relu"]
    assert data["onnxruntime"]["file"]["opset"] == [13, 21, 18]


def test_the_command_lists_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in ((["--list-targets"], str(qatc.targets())), (["--list-targets", "qnn"], "qnn: Qualcomm")):
        with pytest.raises(SystemExit) as left:
            lower_main(arguments)
        assert left.value.code == 0
        assert said in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        lower_main(["--list-targets", "tidll"])
    assert left.value.code == 2
    assert "did you mean 'tidl'" in capsys.readouterr().err
