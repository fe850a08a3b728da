"""The developer tools: the demo's short form, opt's dumps and errors, and that every dependency is pinned."""

import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from qatc.config import PRESETS
from qatc.lowering.lower_modules import lowering_pipeline
from qatc.passes import DedupModules, FoldBnSelf, qat_pipeline
from qatc.spec import BATCH_NORM_MODES
from qatc.targets import TARGETS
from tools import digits, opt, pass_docs, pass_examples
from tools.demo_rows import HEAD, CommandFailed, Trained, lowered
from tools.networks import NETWORKS

ROOT = Path(__file__).parents[1]


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", str(ROOT / "tools/digits_demo.py"), *arguments]
    return subprocess.run(
        command, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )


def test_demo_goes_the_whole_way_and_prints_every_column(tmp_path: Path) -> None:
    done = demo("--quick", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    groups, names, _, *rows = done.stdout.splitlines()
    for heading in (*HEAD[0], *HEAD[1]):
        assert heading in groups + names
    for target, row in zip(("onnxruntime", "tensorrt"), rows, strict=False):
        cells = row.replace(",", "").split()
        assert cells[:3] == ["lenet", "w8a8", target]
        accuracies, (compared, per_op, in_all), sizes = cells[3:6], cells[6:9], cells[9:11]
        assert all(0 <= float(value) <= 100 for value in accuracies)
        assert int(per_op) <= int(compared) / 1e4
        assert int(in_all) >= 0
        assert float(sizes[1]) < 0.5 * float(sizes[0])
    times = rows[0].split()[11:14]
    assert all(float(value) > 0 for value in times)
    assert "0 errors" in rows[1]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"lenet-w8a8-onnxruntime.pt", "lenet-w8a8-tensorrt.onnx", "lenet-float.onnx"} <= written


def test_demo_shows_what_the_command_said_when_it_fails(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pt"
    trained = Trained("lenet", "w8a8", "onnxruntime", 0.0, 0.0, tmp_path / "float.onnx", missing)
    with pytest.raises(CommandFailed, match=r"(?s)^qatc-lower .*missing\.pt.*exit code 2.*missing\.pt"):
        lowered(trained, tmp_path / "test.npz", digits.load())


@pytest.mark.parametrize("name", NETWORKS)
def test_opt_prints_the_graph_after_each_pass(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for step in qat_pipeline(TARGETS["tensorrt"], PRESETS["w8a8"]):
        assert opt.main([name, "--until", step.name, "--target", "tensorrt"]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("return %")


def test_opt_shows_what_a_pass_changed(capsys: pytest.CaptureFixture[str]) -> None:
    assert opt.main(["lenet", "--until", "functional-to-module", "--diff"]) == 0
    removed, added = capsys.readouterr().out.splitlines()
    assert removed.startswith("-%flatten = flatten(%pool_1, 1) : f32[N,400]")
    assert added.startswith("+%flatten = Flatten(%pool_1) : f32[N,400]")
    assert opt.main(["lenet", "--until", "fold-bn-self", "--diff"]) == 0
    assert capsys.readouterr().out == "fold-bn-self changed nothing\n"


def test_opt_prints_passes_as_they_run_and_dumps_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert opt.main(["lenet", "--print-after-change", "--diff", "--dump-dir", str(tmp_path)]) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("#")]
    assert heads[0] == "# 01 dedup-modules: 14 -> 14 nodes"
    assert [head.split()[1] for head in heads] == [p.name[:2] for p in sorted(tmp_path.glob("*.txt"))[1:]]
    assert opt.main(["lenet", "--print-after", "fold-bn-self", "--until", "fold-bn-self"]) == 0
    assert capsys.readouterr().out.startswith("# 07 fold-bn-self: no change\n%x = input()")


def test_opt_shows_the_passes_of_lowering_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert opt.main(["lenet", "--lower", "--until", "prepared"]) == 0
    assert "FusedConv2d(%x_q, grid=%x_q, then=%conv1_q)" in capsys.readouterr().out
    assert opt.main(["lenet", "--lower", "--target", "tensorrt"]) == 0
    assert "LoweredLayer(%x_q)" in capsys.readouterr().out


def test_opt_takes_a_factory_and_a_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "their_models.py").write_text("from torch import nn\ndef make():\n    return nn.Conv2d(2, 4, 3)\n")
    monkeypatch.chdir(tmp_path)
    assert opt.main(["their_models:make", "--shape", "1,2,8,8", "--until", "trace"]) == 0
    assert "f32[N,4,6,6]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lenett"], "no model 'lenett'; the nearest: lenet"),
        (["no.such:thing"], "No module named 'no'"),
        (["builtins:dict"], "gives a dict, not a torch.nn.Module"),
        (["lenet", "--until", "dedup"], "no pass 'dedup'; the nearest: dedup-modules; passes: trace, dedup-modules"),
        (
            ["lenet", "--until", "constrain-pow2-scales"],
            "is not run with --config w8a8, but with: w8a8-pow2, w4a4-pow2",
        ),
        (["lenet", "--lower", "--until", "dedup-modules"], "no pass 'dedup-modules'"),
        (["lenet", "--print-after", "dedup"], "no pass is named 'dedup'"),
        (["lenet", "--target", "onnx"], "unknown target 'onnx'"),
        (["lenet", "--config", "w8"], "unknown config 'w8'"),
        (["lenet", "--shape", "1,3,32,32"], "does not run on the example inputs"),
    ],
)
def test_opt_explains_what_it_cannot_do(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert opt.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("opt: error: ")
    assert printed.err.count("\n") == 1
    assert said in printed.err


@pytest.mark.parametrize("name", ["opt", "bisect"])
def test_opt_and_bisect_are_commands_of_their_own(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "tools" / name, "lenet", "--shape", "32"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"{name}: error: ")


def test_the_reference_of_the_passes_is_what_the_passes_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pass_docs.main(["--check"]) == 0
    text = pass_docs.PAGE.read_text()
    monkeypatch.setattr(pass_docs, "ROOT", tmp_path)
    monkeypatch.setattr(pass_docs, "PAGE", tmp_path / "passes.md")
    monkeypatch.setattr(pass_docs, "page", lambda: text)
    assert pass_docs.main(["--check"]) == 1
    assert capsys.readouterr().err == "passes.md is out of date; write it with tools/pass_docs\n"
    assert pass_docs.main([]) == 0
    assert pass_docs.main(["--check"]) == 0


def test_every_pass_of_every_pipeline_is_in_the_reference() -> None:
    configs = [replace(PRESETS["w8a8-pow2"], batch_norm=mode) for mode in BATCH_NORM_MODES]
    pipelines = [qat_pipeline(target, config) for target in TARGETS.values() for config in configs]
    pipelines += [lowering_pipeline(target) for target in TARGETS.values()]
    assert {type(step) for pipeline in pipelines for step in pipeline} == set(pass_examples.EXAMPLES)


def test_an_example_that_shows_nothing_is_refused() -> None:
    example = pass_examples.EXAMPLES[DedupModules]
    with pytest.raises(LookupError, match="the example of fold-bn-self shows nothing"):
        pass_docs.changes(FoldBnSelf, example)


def test_every_dependency_is_pinned_to_what_is_installed() -> None:
    pinned: dict[str, str] = {}
    for line in (ROOT / "tools/constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pinned[canonicalize_name(name)] = version
    for name, version in needed_and_installed().items():
        assert pinned.get(canonicalize_name(name)) == version.partition("+")[0], f"{name} {version} is installed"


def needed_and_installed() -> dict[str, str]:
    """Return the versions of all that the project needs with its extras, and of what that needs in turn."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    waiting = [Requirement(line) for line in listed if not line.startswith("qatc")]
    found: dict[str, str] = {}
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = package.version
        needs = [Requirement(line) for line in package.requires or ()]
        waiting += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found
