"""A killed command leaves the old file; what a kill leaves beside it, the next run removes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import qatc
from qatc.cli import lower_main
from qatc.errors import CheckpointError
from qatc.whole_file import replacing

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a checkpoint alone."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = qatc.prepare(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(3, 4))
    qatc.calibrate(model, [torch.randn(3, 4)], progress=False)
    qatc.save(model, "model.pt")
    return tmp_path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(folder: Path) -> None:
    script = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "interrupted.py"), str(folder)]
    done = subprocess.run(script, env=environment(), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["cases"]) == 7
    left = 0
    for case in found["cases"]:
        assert case["reached"], case
        assert case["old"] == (case["moment"] != "after the rename"), case
        expected = {"kill": -signal.SIGKILL, "term": 128 + signal.SIGTERM, "int": 128 + signal.SIGINT}
        assert case["status"] == expected[case["signal"]], case
        temporary = [name for name in case["files"] if name not in ("model.pt", "out.onnx")]
        assert len(temporary) <= 1, case  # that of a kill -9, which the next run takes away
        assert all(name.startswith(".out.onnx.") for name in temporary), case
        left += len(temporary)
    assert left > 0
    assert found["status"] == 0
    assert found["files"] == ["model.pt", "out.onnx"]


def test_the_command_killed_at_work_writes_nothing(folder: Path) -> None:
    command = [sys.executable, "-m", "qatc", "lower", "model.pt", "-o", "out.onnx", "--dump-dir", "dumps"]
    running = subprocess.Popen(command, env=environment(), cwd=folder)
    while not (folder / "dumps").exists() and running.poll() is None:
        time.sleep(0.01)
    running.kill()
    assert running.wait() == -signal.SIGKILL
    assert sorted(os.listdir(folder)) == ["dumps", "model.pt"]


def test_files_of_others_and_of_running_processes_stay(folder: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    kept = [f".x.onnx.{os.getpid()}-7.tmp", ".x.onnx.tmp", f".y.onnx.{gone.pid}-1.tmp", ".x.onnx.abc-1.tmp"]
    for name in (*kept, f".x.onnx.{gone.pid}-1.tmp"):
        (folder / name).touch()
    with replacing(folder / "x.onnx") as file:
        file.write(b"new")
    assert sorted(os.listdir(folder)) == sorted([*kept, "model.pt", "x.onnx"])


def test_a_full_disk_is_told_and_nothing_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert lower_main(["model.pt"]) == 2
    assert "the file cannot be written: No space left on device" in capsys.readouterr().err
    assert os.listdir(folder) == ["model.pt"]


def test_a_disk_that_fills_while_torch_writes_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = qatc.load("model.pt")

    class Full:
        def write(self, content: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def flush(self) -> None: ...

    whole = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: whole(content, Full()))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="cannot write the checkpoint: No space left on device"):
        qatc.save(model, "model2.pt")
    assert os.listdir(folder) == ["model.pt"]


@pytest.mark.parametrize("where", ["gone/x.onnx", ".", "pipe", "file/x.onnx"])
def test_an_output_that_cannot_be_is_told(where: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    Path("file").touch()
    assert lower_main(["model.pt", "-o", where]) == 2
    assert "the output cannot be written" in capsys.readouterr().err
    assert sorted(os.listdir(folder)) == ["file", "model.pt", "pipe"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder.chmod(0o500)
    try:
        assert lower_main(["model.pt"]) == 2
    finally:
        folder.chmod(0o700)
    assert "the output cannot be written" in capsys.readouterr().err


def test_dumps_that_cannot_be_written_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert lower_main(["model.pt", "--dump-dir", "file/dumps"]) == 2
    said = "qatc: error: the dumps cannot be written: Not a directory\n  at: file/dumps"
    assert said in capsys.readouterr().err
    assert sorted(os.listdir(folder)) == ["file", "model.pt"]


def test_output_into_a_pipe_that_closes(folder: Path) -> None:
    np.savez("x.npz", np.zeros((4, 4), np.float32))
    shell = f"{sys.executable} -m qatc lower model.pt --verify x.npz --report | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], env=environment(), capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr
    assert (folder / "model.onnx").exists()
