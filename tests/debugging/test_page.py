"""The examples of docs/debugging.md, run from the first to the last."""

import argparse
import linecache
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import qatc
from qatc.cli import main
from qatc.commands import DEBUG

PAGE = (Path(__file__).parents[2] / "docs" / "debugging.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_its_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    for kind, text in BLOCKS:
        if kind == "sh":
            program, *arguments = shlex.split(text)
            assert program == "qatc"
            assert main(arguments) == 0
        else:
            exec(compile(text, "network.py", "exec"), known)
    printed = capsys.readouterr().out.splitlines()
    shown = PAGE.split("```\nplace")[1].split("```")[0].splitlines()
    first = next(i for i, line in enumerate(printed) if line.startswith("place"))
    assert printed[first].split() == ["place", *shown[0].split()]
    ours, theirs = printed[first + 2].split(), shown[2].split()
    assert ours[:4] == theirs[:4]
    assert float(ours[4]) == pytest.approx(float(theirs[4]), abs=0.5)
    assert known["damage"].kept == ("body",)
    better = known["mended"]
    qatc.calibrate(better, [known["images"]], progress=False)
    after = qatc.debug(better, [known["images"]], progress=False).outputs.sqnr
    claimed = re.findall(r"SQNR goes from (\d+) to (\d+) dB", PAGE)[0]
    assert [known["report"].outputs.sqnr, after] == pytest.approx([float(figure) for figure in claimed], abs=0.6)
    assert "accumulated SQNR, dB" in Path("page.html").read_text(encoding="utf-8")
    linecache.clearcache()


def test_its_options_are_those_of_the_command() -> None:
    parser = argparse.ArgumentParser()
    DEBUG.add_arguments(parser)
    options = {name for action in parser._actions for name in action.option_strings}
    own = {"--data", "--onnx", "--all", "--limit", "--json", "--measured", "--view", "--history", "-o"}
    assert own <= options
    for name in own:
        assert name in PAGE
