"""Each script of docs/examples, run as its first lines say, for a few steps."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import qatc
from tests.check_pass import evaluated

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "docs/examples"
WITH_TORCHVISION = ROOT / "tests/run_script.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(script: str, *arguments: object, ranks: int = 1, torchvision: bool = False, cwd: Path | None = None) -> str:
    """Return what the script prints."""
    launched = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    wrapper = [str(WITH_TORCHVISION)] if torchvision else []
    command = [sys.executable, *launched, *wrapper, str(EXAMPLES / script), *map(str, arguments)]
    done = subprocess.run(command, env=ENVIRONMENT, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def accuracy(line: str) -> float:
    return float(line.split()[-2])


def test_every_example_is_listed_and_tested() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    here = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert f"({path.name})" in listed
        assert f'"{path.name}"' in here or path.name == "task.py"


def test_the_plain_loop(tmp_path: Path) -> None:
    floating, report, quantized = run("plain.py", "--epochs", 3, "--out", tmp_path / "model.pt").splitlines()
    assert report == "5 of 5 ops quantized (3 with weights)"
    assert accuracy(quantized) > accuracy(floating) - 5 > 60
    assert qatc.load(tmp_path / "model.pt").prepared_for is not None


def losses(printed: str) -> dict[int, str]:
    lines = [line.split() for line in printed.splitlines() if line.startswith("step ")]
    return {int(step): loss for _, step, _, loss in lines}


def test_a_killed_run_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    """Killed with no warning between two saved states; what it did since the last one is done again."""
    given = ["--steps", "24", "--every", "7"]
    whole = losses(run("resume.py", *given, "--state", tmp_path / "whole.pt"))
    assert len(whole) == len(set(whole.values())) == 24
    command = [sys.executable, str(EXAMPLES / "resume.py"), *given, "--state", str(tmp_path / "killed.pt")]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = ""
        for line in process.stdout:
            printed += line
            if line.startswith("step 16 "):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    before = losses(printed)
    resumed = losses(run("resume.py", *given, "--state", tmp_path / "killed.pt"))
    assert min(resumed) in (14, 21)  # it may have gone on for a moment before it died
    assert {**before, **resumed} == whole


def test_two_processes(tmp_path: Path) -> None:
    (line,) = run("ranks.py", "--epochs", 2, "--out", tmp_path / "model.pt", ranks=2).splitlines()
    assert line.startswith("w8a8 on 2 ranks: ")
    assert accuracy(line) > 50
    assert qatc.load(tmp_path / "model.pt").prepared_for is not None


def test_lightning(tmp_path: Path) -> None:
    printed = run("with_lightning.py", "--epochs", 2, "--out", tmp_path / "model.pt", torchvision=True, cwd=tmp_path)
    assert accuracy(printed.splitlines()[-1]) > 50
    assert qatc.load(tmp_path / "model.pt").prepared_for is not None
    assert set(tmp_path.iterdir()) == {tmp_path / "model.pt"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of two classes, bright above and bright below."""
    random = np.random.default_rng(0)
    for part, count in (("train", 16), ("val", 5)):
        for label, rows in (("above", slice(0, 20)), ("below", slice(20, 40))):
            (tmp_path / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 120, (40, 40, 3), dtype=np.uint8)
                pixels[rows] += 120
                Image.fromarray(pixels).save(tmp_path / part / label / f"{number}.png")
    return tmp_path


def test_the_recipe_for_a_folder_of_images_trains_on_two_ranks_resumes_and_lowers(folder: Path) -> None:
    out = folder / "run"
    given = [folder, "--arch", "resnet18", "--batch", 4, "--size", 32, "--workers", 1, "--amp", "bf16", "--rate", 0.5]
    given += ["--calibrate", 2, "--out", out]
    first = run("imagenet.py", *given, "--epochs", 1, ranks=2, torchvision=True).splitlines()
    both = run("imagenet.py", *given, "--epochs", 2, ranks=2, torchvision=True).splitlines()
    assert [line.split()[:2] for line in first + both] == [["epoch", "1"], ["epoch", "2"]]
    model = qatc.load(out / "model.pt")
    state = torch.load(out / "last.pth", weights_only=True)
    assert (int(state["model"]["qatc_schedule.step"]), state["epoch"]) == (8, 2)
    assert all(torch.equal(value, state["model"][name]) for name, value in model.state_dict().items())
    assert evaluated(model, [torch.zeros(1, 3, 32, 32)]).shape == (1, 2)
    assert (out / "model.onnx").stat().st_size > 10**6
