"""The commands: what they print, what they write, and what they say of bad input."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import qatc
from qatc.cli import lower_main, main
from qatc.lowering import Verification
from tests.lowering.networks import calibrated, data, everything


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    qatc.save(calibrated("onnxruntime", "w8a8"), path)
    return path


def run(*args: object) -> int:
    return lower_main([str(a) for a in args])


def test_lowers_and_verifies(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", x=data().numpy())
    out = tmp_path / "out.onnx"
    assert run(checkpoint, "--target", "onnxruntime", "-o", out, "--verify", tmp_path / "x.npz") == 0
    printed = capsys.readouterr().out
    assert "verified" in printed.splitlines()[-1]
    assert "wrote" in printed
    onnx.checker.check_model(onnx.load(out), full_check=True)


def test_lints_for_tensorrt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qatc.save(calibrated("tensorrt", "w8a8"), tmp_path / "model.pt")
    assert run(tmp_path / "model.pt", "--target", "tensorrt") == 0
    assert "lint: 24 rules of tensorrt: 0 errors" in capsys.readouterr().out
    assert (tmp_path / "model.onnx").exists()


def test_qatc_lower_is_the_same_command(checkpoint: Path, tmp_path: Path) -> None:
    assert main(["lower", str(checkpoint), "-o", str(tmp_path / "a.onnx")]) == 0
    assert run(checkpoint, "-o", tmp_path / "b.onnx") == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "qatc", "lower", "--help"], capture_output=True, text=True, check=True)
    assert "example:" in done.stdout
    assert "exit codes:" in done.stdout


def test_dumps(checkpoint: Path, tmp_path: Path) -> None:
    assert run(checkpoint, "-o", tmp_path / "a.onnx", "--dump-dir", tmp_path / "dumps", "--opset", 17) == 0
    assert list((tmp_path / "dumps").glob("*-lower-modules.txt"))
    assert onnx.load(tmp_path / "a.onnx").opset_import[0].version == 17


def test_options_say_how_the_file_is_written(checkpoint: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=data(4).numpy()[..., :14])
    out = tmp_path / "a.onnx"
    how = ["--weights", "float", "--sub-byte", "qcdq", "--batch", 2, "--dynamic", "x:2", "--dynamic", "x:3"]
    assert run(checkpoint, "-o", out, "--verify", tmp_path / "x.npz", *how) == 0
    graph = onnx.load(out).graph
    assert [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [2, 3, "x_2", "x_3"]
    assert "body.weight" in {c.name for c in graph.initializer}
    assert run(checkpoint, "-o", out, "--batch", "dynamic") == 0
    assert onnx.load(out).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("how", [
    ["--batch", "some"], ["--dynamic", "x"], ["--dynamic", "x:a"], ["--weights", "int4"], ["--sub-byte", "wide"],
])  # fmt: skip
def test_arguments_that_are_none_end_with_usage(
    how: list[str], checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(checkpoint, *how)
    assert stopped.value.code == 2
    assert how[0] in capsys.readouterr().err


@pytest.mark.parametrize(("prepared", "target", "given"), [
    ("onnxruntime", "tensorrt", "--verify"), ("tensorrt", "onnxruntime", "--calib"),
])  # fmt: skip
def test_quantizers_are_moved_where_asked(
    prepared: str, target: str, given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", x=data().numpy())
    qatc.save(calibrated(prepared, "w8a8"), tmp_path / "model.pt")
    how = ["--target", target, "--replace-placement", given, tmp_path / "x.npz"]
    assert run(tmp_path / "model.pt", *how) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["tensor", "for", prepared, "for", target]
    (compared,) = (line for line in lines if "both simulated" in line)
    assert compared.startswith(f"outputs for {target} against those for {prepared}, both simulated: SQNR 4")
    assert lines[-1] == "verified"


def test_quantizers_stay_where_they_are_for_the_same_target(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, "--target", "onnxruntime", "--replace-placement", "-o", tmp_path / "a.onnx") == 0
    assert "both simulated" not in capsys.readouterr().out
    assert run(checkpoint, "-o", tmp_path / "b.onnx") == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_verify_on_chooses_runtimes_and_the_target_s_own_decides(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", x=data(3).numpy())
    verified = (checkpoint, "--verify", tmp_path / "x.npz", "--verify-on")
    assert run(*verified, "onnxruntime-unoptimized", "--verify-on", "onnxruntime") == 0
    printed = capsys.readouterr().out
    assert printed.index("onnxruntime-unoptimized 1.") < printed.index("onnxruntime 1.")
    assert printed.count("(not what decides for onnxruntime)") == 1
    assert "SQNR dB" in printed


@pytest.mark.parametrize("passes", [True, False])
def test_json_is_all_that_is_on_stdout(
    passes: bool, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez(tmp_path / "x.npz", x=data(3).numpy())
    if not passes:
        monkeypatch.setattr(Verification, "passed", False)
    code = run(checkpoint, "--verify", tmp_path / "x.npz", "--json")
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    assert (code, said["passed"]) == ((0, True) if passes else (1, False))
    assert (said["target"], [run["runtime"] for run in said["runtimes"]]) == ("onnxruntime", ["onnxruntime"])
    assert {"name", "codes", "differing", "step", "sqnr_db"} <= set(said["runtimes"][0]["tensors"][0])
    assert "wrote" in printed.err


def test_lowering_prints_its_passes(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(checkpoint, "-o", tmp_path / "a.onnx", "--print-after", "lower-modules") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# 09 lower-modules target=onnxruntime: 25 -> 25 nodes\n%x = input() : f32[N,3,16,16]")
    assert "\nwrote " in printed
    for options in (("--print-after-change", "--diff"), ("--diff",)):
        assert run(checkpoint, "-o", tmp_path / "a.onnx", *options) == 0
        head, *rest = capsys.readouterr().out.splitlines()
        assert head == "# 06 drop-inactive: 26 -> 25 nodes"
        assert rest[0].startswith("-%drop = Dropout(")


def test_a_pass_to_print_that_there_is_not_is_an_error(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, "-o", tmp_path / "a.onnx", "--print-after", "lower") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no pass is named 'lower'" in printed.err
    assert not (tmp_path / "a.onnx").exists()


class Bad:
    """Ways to call the command wrongly: what to do to the checkpoint, further arguments, what the error must say."""

    @staticmethod
    def uncalibrated(path: Path) -> None:
        qatc.save(qatc.prepare(everything(), data()), path)

    @staticmethod
    def nan(path: Path) -> None:
        model = qatc.load(path)
        with torch.no_grad():
            model.get_parameter("body.weight")[0] = float("nan")
        qatc.save(model, path)

    @staticmethod
    def infinite_range(path: Path) -> None:
        model = qatc.load(path)
        model.get_buffer("x_q.recorders.0.averages").fill_(float("inf"))
        qatc.save(model, path)

    @staticmethod
    def pickled(path: Path) -> None:
        torch.save(everything(), path)

    @staticmethod
    def truncated(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:2000])

    @staticmethod
    def text(path: Path) -> None:
        path.write_text("not a model")

    @staticmethod
    def missing(path: Path) -> None:
        path.unlink()

    @staticmethod
    def for_tensorrt(path: Path) -> None:
        qatc.save(calibrated("tensorrt", "w8a8"), path)

    @staticmethod
    def untouched(path: Path) -> None:
        pass


@pytest.mark.parametrize(
    ("spoil", "arguments", "said"),
    [
        (Bad.missing, [], "model.pt"),
        (Bad.truncated, [], "model.pt"),
        (Bad.text, [], "model.pt"),
        (Bad.pickled, [], "--trust-pickle"),
        (Bad.uncalibrated, [], "qatc.calibrate"),
        (Bad.nan, [], "body.weight"),
        (Bad.infinite_range, [], "x_q"),
        (Bad.untouched, ["--target", "tensorrrt"], "'tensorrt'"),
        (Bad.untouched, ["--target", "tensorrt"], "prepared and trained for onnxruntime"),
        (Bad.untouched, ["--target", "tensorrt"], "conv output         u8               none"),
        (Bad.untouched, ["--target", "tensorrt", "--replace-placement"], "--verify data.npz, or --calib data.npz"),
        (Bad.for_tensorrt, ["--target", "onnxruntime", "--replace-placement", "--verify", "X"], "none: conv_q, body_q"),
        (Bad.untouched, ["--target", "tensorrt", "--replace-placement", "--calib", "missing.npz"], "missing.npz"),
        (Bad.untouched, ["--opset", "7"], "opset 7"),
        (Bad.untouched, ["--batch", "0"], "batch 0"),
        (Bad.untouched, ["--dynamic", "y:2"], "no input is named 'y'"),
        (Bad.untouched, ["--float-dtype", "fp16"], "onnxruntime does not take floats as fp16"),
        (Bad.untouched, ["--io-dtype", "fp16"], "io_dtype"),
        (Bad.untouched, ["-o", "/nowhere/at/all.onnx"], "/nowhere/at/all.onnx"),
        (Bad.untouched, ["-o", "/"], "folder"),
        (Bad.untouched, ["--verify", "missing.npz"], "missing.npz"),
        (Bad.untouched, ["--verify-on", "openvino"], "no data to verify on"),
        (Bad.untouched, ["--json"], "no data to verify on"),
    ],
)
def test_bad_input_is_one_clear_error(
    spoil: object, arguments: list[str], said: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(spoil)
    spoil(checkpoint)
    np.savez(tmp_path / "x.npz", x=data().numpy())
    arguments = [str(tmp_path / "x.npz") if argument == "X" else argument for argument in arguments]
    before = sorted(p.name for p in tmp_path.iterdir())
    assert run(checkpoint, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("qatc: error: ")
    assert said in error
    assert "Traceback" not in error
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"image": np.zeros((2, 3, 16, 16), np.float32)}, "['image']"),
        ({"x": np.zeros((2, 3, 8, 8), np.float32)}, "[2, 3, 8, 8]"),
        ({"x": np.zeros((2, 3, 16, 16), np.float64)}, "float64"),
        ({"x": np.zeros((0, 3, 16, 16), np.float32)}, "no"),
        ({"x": np.full((2, 3, 16, 16), np.nan, np.float32)}, "NaN"),
    ],
)
def test_verify_data_that_does_not_fit(
    arrays: dict[str, np.ndarray], said: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    assert run(checkpoint, "--verify", tmp_path / "x.npz") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("open_", [True, False])
def test_sizes_that_an_export_left_open_may_stay_so(
    open_: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {"x": {0: dynamic, 2: dynamic, 3: dynamic} if open_ else {0: dynamic}}
    torch.export.save(torch.export.export(everything(), (data(2),), dynamic_shapes=shapes), tmp_path / "m.pt2")
    np.savez(tmp_path / "x.npz", x=data(4).numpy())
    code = run(tmp_path / "m.pt2", "--calib", tmp_path / "x.npz", "--dynamic", "x:2,3")
    if open_:
        assert code == 0
        assert onnx.load(tmp_path / "m.onnx").graph.input[0].type.tensor_type.shape.dim[2].dim_param == "x_2"
    else:
        assert code == 2
        assert "x.shape[2] cannot stay open: specialised on x.shape[1], x.shape[2], x.shape[3] in the exported" in (
            capsys.readouterr().err
        )


def test_an_unknown_runtime_writes_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", x=data(3).numpy())
    assert run(checkpoint, "--verify", tmp_path / "x.npz", "--verify-on", "openvin") == 2
    assert "unknown runtime 'openvin'\n  try: did you mean 'openvino'?" in capsys.readouterr().err
    assert not (tmp_path / "model.onnx").exists()
