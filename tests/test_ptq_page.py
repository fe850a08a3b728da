"""The examples of docs/ptq.md, run from the first to the last."""

import argparse
import re
import shlex
import sys
from pathlib import Path

import pytest

import qatc
from qatc.cli import lower_main
from qatc.commands import LOWER

PAGE = (Path(__file__).parents[1] / "docs" / "ptq.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"\d+(\.\d+)?")


def test_its_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "network", raising=False)
    known: dict[str, object] = {}
    for kind, text in BLOCKS:
        if kind == "sh":
            command, *arguments = shlex.split(text)
            assert command == "qatc-lower"
            assert lower_main(arguments) == 0
        elif text.startswith("# network.py"):
            Path("network.py").write_text(text, encoding="utf-8")
        else:
            exec(compile(text, "docs/ptq.md", "exec"), known)
    printed = capsys.readouterr().out
    for line in PAGE.split("```\nwrote")[1].split("```")[0].splitlines()[1:3]:
        assert NUMBER.sub("N", line) in NUMBER.sub("N", printed)
    assert printed.count("verified\n") == 2
    assert {p.name for p in tmp_path.glob("*.onnx")} == {"network.onnx", "again.onnx"}
    assert qatc.load("network.pt").prepared_for is not None
    del sys.modules["network"]


def test_its_options_are_those_of_the_command() -> None:
    parser = argparse.ArgumentParser()
    LOWER.add_arguments(parser)
    options = {name for action in parser._actions for name in action.option_strings}
    named = set(re.findall(r"`(--[\w-]+)", PAGE))
    assert named <= options
    own = {"--model", "--state-dict", "--batch-size", "--config", "--bits", "--refine", "--save", "--no-verify"}
    assert own <= named | {"--calib"}
