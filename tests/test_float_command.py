"""qatc-lower from a float model: a .pt2 file or the user's own code, and data, to a verified file in one go."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import qatc
from qatc.cli import lower_main
from qatc.commands.factory import made_by
from tests.exported.exports import MODELS, Two, exported, two
from tests.models import images, randomise
from tests.torchvision_networks import network

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.bn, self.head = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(16, 5)

    def forward(self, x, scale=None):
        y = torch.relu(self.bn(self.first(x))).mean((2, 3))
        return self.head(y)

def net():
    torch.manual_seed(0)
    return Net().train()

ready = net()

def broken():
    return 1 / 0

def text():
    return "model"

class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x.view(3, 4))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's module `mine_of_<test>` and data for its network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.setitem(__import__("sys").modules, "mine", None)
    del __import__("sys").modules["mine"]
    np.savez("x.npz", x=images(20, 3, 12, 12, seed=5).numpy(), label=np.zeros(20))
    np.savez("two.npz", left=images(20, 8, seed=6).numpy(), right=images(20, 4, seed=7).numpy())
    np.savez("positions.npz", images(20, 8, seed=6).numpy(), images(20, 4, seed=7).numpy())
    return tmp_path


def run(*args: object) -> int:
    return lower_main([str(arg) for arg in args])


def test_a_factory_becomes_a_verified_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", "mine:net", "--calib", "x.npz", "--save", "kept.pt", "--batch-size", 8) == 0
    printed = capsys.readouterr().out
    assert "quantized: 3 of 3 ops, 2 with weights" in printed
    assert float(re.findall(r"SQNR ([\d.]+) dB against the float model, on 20 samples", printed)[0]) > 30
    assert printed.splitlines()[-1] == "verified"
    onnx.checker.check_model(onnx.load("net.onnx"), full_check=True)
    kept = qatc.load("kept.pt")
    qatc.lower(kept, "again.onnx")
    assert Path("again.onnx").read_bytes() == Path("net.onnx").read_bytes()


@pytest.mark.parametrize("data", ["two.npz", "positions.npz"])
def test_a_program_of_two_inputs(data: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(here / "model.pt2", two(), MODELS["two"][1])
    assert run("model.pt2", "--calib", data, "--target", "tensorrt") == 0
    assert "verified" in capsys.readouterr().out
    graph = onnx.load("model.onnx").graph
    assert [i.name for i in graph.input] == ["left", "right"]
    assert [o.name for o in graph.output] == ["logits", "more_0"]


def test_a_program_of_a_fixed_batch_gives_a_file_of_that_batch(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported(here / "model.pt2", two(), MODELS["two"][1], fixed=True)
    assert run("model.pt2", "--calib", "two.npz") == 0
    assert "verified" in capsys.readouterr().out
    sizes = [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in onnx.load("model.onnx").graph.input]
    assert sizes == [[4, 8], [4, 4]]
    assert run("model.pt2", "--calib", "two.npz", "--batch-size", 5) == 2
    assert "batches of 4" in capsys.readouterr().err


def test_the_ways_to_a_network_of_torchvision_give_the_same_layers(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network("resnet18")
    monkeypatch.setattr("qatc.commands.float_model.made_by", lambda name: model)
    exported(here / "model.pt2", model, (images(2, 3, 32, 32),))
    np.savez("images.npz", x=images(4, 3, 32, 32, seed=3).numpy())
    assert run("model.pt2", "--calib", "images.npz") == 0
    assert run("--model", "a:b", "--calib", "images.npz", "-o", "b.onnx", "--no-verify") == 0
    printed = capsys.readouterr().out
    assert printed.count("quantized: 40 of 40 ops, 21 with weights") == 2
    figures = re.findall(r"SQNR ([\d.]+) dB against the float model", printed)
    assert len(figures) == 2
    assert figures[0] == figures[1]
    assert printed.count("verified") == 1


def test_bits_configuration_and_refinements(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_text('preset = "w8a8"\n[[rules]]\nmatch = "head"\nquantize = false\n')
    refine = (
        "--refine",
        "equalize",
        "--refine",
        "clip_weights",
        "--refine",
        "reestimate_bn",
        "--refine",
        "correct_biases",
    )
    assert (
        run("--model", "mine:net", "--calib", "x.npz", "--config", "c.toml", "--bits", "4,6", *refine, "--report") == 0
    )
    printed = capsys.readouterr().out
    assert re.search(r"^first +Conv +s4/ch0 +u6", printed, re.MULTILINE)
    assert re.search(r"^head +Gemm +.*excluded|^head .*quantize", printed, re.MULTILINE)


def test_bias_correction_brings_it_nearer_to_the_float_model(here: Path) -> None:
    torch.manual_seed(0)
    model = randomise(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    model.eval()
    config = qatc.QConfig(default=qatc.LayerConfig(weight_bits=3))
    batches = [images(16, 3, 12, 12, seed=n) for n in range(4)]
    before = {name: p.clone() for name, p in model.named_parameters()}

    def off(**how: object) -> Tensor:
        quantized = qatc.quantize(model, iter(batches), config=config, progress=False, **how)  # type: ignore[arg-type]
        with torch.no_grad():
            difference: Tensor = quantized.eval()(batches[0]) - model(batches[0])
        return difference.mean((0, 2, 3)).abs().mean()

    assert off(refine=["correct_biases"]) < 0.5 * off()
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize("form", ["state.pt", "state.safetensors", "training.pt"])
def test_weights_come_from_a_file_of_tensors(form: str, here: Path) -> None:
    state = randomise(made_by("mine:net"), seed=3).state_dict()
    match form:
        case "state.pt":
            torch.save(state, form)
        case "training.pt":
            torch.save({"state_dict": state, "epoch": 3}, form)
        case _:
            safetensors.torch.save_file(state, form)
    assert run("--model", "mine:net", "--state-dict", form, "--calib", "x.npz", "--save", "m.pt", "--no-verify") == 0
    assert torch.equal(qatc.load("m.pt").state_dict()["head.weight"], state["head.weight"])


ERRORS: dict[str, tuple[list[str], str]] = {
    "no model": ([], "one model"),
    "two models": (["model.pt2", "--model", "mine:net", "--calib", "two.npz"], "two models"),
    "no data": (["model.pt2"], "--calib"),
    "a factory that fails": (["--model", "mine:broken", "--calib", "x.npz"], r"ZeroDivisionError(.|\n)*mine.py:21"),
    "a factory of no model": (["--model", "mine:text", "--calib", "x.npz"], "gives a str"),
    "no factory": (["--model", "mine:nothing", "--calib", "x.npz"], "'nothing'"),
    "no module": (["--model", "nobodys:net", "--calib", "x.npz"], "No module named 'nobodys'"),
    "no place": (["--model", "mine", "--calib", "x.npz"], "no place of a factory"),
    "missing data": (["model.pt2", "--calib", "none.npz"], "no such file(.|\n)*none.npz"),
    "other data": (["model.pt2", "--calib", "x.npz"], "left, right missing"),
    "data of another shape": (["--model", "mine:net", "--calib", "left.npz"], "mine.py:|does not run"),
    "data of another type": (["model.pt2", "--calib", "wide.npz"], "float64"),
    "NaN": (["--model", "mine:net", "--calib", "nan.npz"], "finite|NaN"),
    "too few": (["fixed.pt2", "--calib", "few.npz"], "at least 4"),
    "batches of one size": (
        ["--model", "mine:Fixed", "--calib", "four.npz", "--batch-size", "3"],
        "a batch of the data",
    ),
    "bits": (["model.pt2", "--calib", "two.npz", "--bits", "9"], "--bits 9"),
    "many bits": (["model.pt2", "--calib", "two.npz", "--bits", "4,4,4"], "--bits 4,4,4"),
    "batch size": (["model.pt2", "--calib", "two.npz", "--batch-size", "0"], "--batch-size 0"),
    "weights of a file": (["model.pt2", "--calib", "two.npz", "--state-dict", "w.pt"], "--state-dict"),
    "other weights": (["--model", "mine:net", "--calib", "x.npz", "--state-dict", "w.pt"], "Missing key(.|\n)*w.pt"),
    "pickled weights": (["--model", "mine:net", "--calib", "x.npz", "--state-dict", "pickled.pt"], "tensors alone"),
    "no weights": (["--model", "mine:net", "--calib", "x.npz", "--state-dict", "none.pt"], "no such file"),
    "an unknown target": (["model.pt2", "--calib", "two.npz", "--target", "tensorrrt"], "'tensorrt'"),
    "an unknown config": (["model.pt2", "--calib", "two.npz", "--config", "w8a9"], "w8a8"),
    "an output that is none": (["model.pt2", "--calib", "two.npz", "-o", "/dev/null"], "/dev/null"),
    "a checkpoint's folder": (["model.pt2", "--calib", "two.npz", "--save", "none/m.pt"], "none/m.pt"),
    "a checkpoint": (["m.pt", "--calib", "two.npz", "--bits", "8"], "--bits, --calib: for float models"),
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good programs and data that does not fit."""
    folder = tmp_path_factory.mktemp("bad")
    exported(folder / "model.pt2", two(), MODELS["two"][1])
    exported(folder / "fixed.pt2", two(), MODELS["two"][1], fixed=True)
    np.savez(folder / "left.npz", x=images(20, 8).numpy())
    np.savez(folder / "wide.npz", left=images(20, 8).double().numpy(), right=images(20, 4).numpy())
    np.savez(folder / "nan.npz", x=np.full((4, 3, 12, 12), np.nan, np.float32))
    np.savez(folder / "few.npz", left=images(3, 8).numpy(), right=images(3, 4).numpy())
    np.savez(folder / "four.npz", x=images(4, 4).numpy())
    torch.save(Two().state_dict(), folder / "w.pt")
    torch.save(nn.Linear(2, 2), folder / "pickled.pt")
    qatc.save(qatc.prepare(two(), MODELS["two"][1]), folder / "m.pt")
    return folder


@pytest.mark.filterwarnings("ignore:the batch is fixed")
@pytest.mark.parametrize("name", ERRORS)
def test_each_error_says_what_and_where_and_nothing_is_written(
    name: str, here: Path, bad: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, said = ERRORS[name]
    for path in bad.iterdir():
        (here / path.name).symlink_to(path)
    before = sorted(p.name for p in here.iterdir() if p.name != "__pycache__")
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(("qatc: error: ", "qatc: warning: "))
    assert re.search(said, error), error
    assert "try: " in error
    assert "Traceback" not in error
    assert sorted(p.name for p in here.iterdir() if p.name != "__pycache__") == before
