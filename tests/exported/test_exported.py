"""Files of torch.export: read without its loader they compute what the model does, and are quantized as it is."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qatc
from qatc.errors import CheckpointError
from qatc.exported import is_exported, load_exported
from qatc.lowering import lowered_proto, verify
from qatc.nested import tensors
from tests.exported.exports import MODELS, Two, exported, odd, two
from tests.models import images, randomise


def same(model: nn.Module, read: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        wanted, found = tensors(model.eval()(*inputs)), tensors(read(*inputs))
    assert [path for path, _ in found] == [path for path, _ in wanted]
    for (_, ours), (_, theirs) in zip(wanted, found, strict=True):
        torch.testing.assert_close(theirs, ours)


def weighted(model: qatc.PreparedModel) -> set[str]:
    return {row.name for row in model.report.rows if row.weight}


@pytest.mark.parametrize("name", MODELS)
def test_a_file_is_the_model_with_the_layers_and_names_of_the_model(name: str, tmp_path: Path) -> None:
    make, inputs = MODELS[name]
    model = make().eval()
    read = load_exported(exported(tmp_path / "model.pt2", model, inputs))
    assert type(read).__name__ == type(model).__name__
    same(model, read, inputs)
    larger = tuple(torch.cat([x, x[:1]]) for x in inputs)
    same(model, read, larger)
    own = dict(model.named_parameters())
    assert all(torch.equal(own[n], p) for n, p in read.named_parameters())
    assert read.state_dict().keys() <= model.state_dict().keys()
    direct, through = (qatc.prepare(m, inputs) for m in (model, read))
    assert weighted(through) == weighted(direct)
    floats = [sum(bool(row.reason) for row in m.report.rows) for m in (direct, through)]
    assert floats[1] <= floats[0] + 2  # a Transpose, or what a view of the module path folds away


@pytest.mark.parametrize(
    ("name", "fixed"), [("vit", False), ("vit", True), ("odd", False), ("mobilenet_v3_small", False), ("two", True)]
)
def test_the_simulation_of_a_file_runs_on_onnxruntime(name: str, fixed: bool, tmp_path: Path) -> None:
    make, inputs = MODELS[name]
    inputs = tuple(x[:1] for x in inputs) if fixed else inputs
    read = load_exported(exported(tmp_path / "model.pt2", make().eval(), inputs, fixed=fixed))
    assert read.fixed_batch == (1 if fixed else None)
    model = qatc.quantize(read, [inputs], progress=False)
    lowered = lowered_proto(model)
    check = verify(model, lowered, {name: x.numpy() for name, x in zip(read.inputs, inputs, strict=True)})
    assert check.passed, str(check)


def test_a_program_of_train_mode_is_the_model_in_eval_mode(tmp_path: Path) -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))).train()
    file = exported(tmp_path / "model.pt2", model, (images(),))
    same(model, load_exported(file), (images(),))
    prepared = qatc.prepare(load_exported(file), images())
    prepared.train()
    assert not torch.equal(prepared(images()), prepared(images()))  # its dropout follows train() again


def test_core_aten_is_read_too(tmp_path: Path) -> None:
    front = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    model = randomise(nn.Sequential(*front, nn.Linear(36, 5), nn.LayerNorm(5))).eval()
    read = load_exported(exported(tmp_path / "model.pt2", model, (images(),), core=True))
    same(model, read, (images(),))
    assert len(weighted(qatc.prepare(read, images()))) == 2


def test_places_are_those_of_the_exported_code(tmp_path: Path) -> None:
    read = load_exported(exported(tmp_path / "model.pt2", two(), MODELS["two"][1]))
    row = next(row for row in qatc.prepare(read, MODELS["two"][1]).report.rows if row.name == "add")
    lines = (Path(__file__).parent / "exports.py").read_text(encoding="utf-8").splitlines()
    file, _, line = row.place.partition(":")
    assert file == "exports.py"
    assert "torch.relu(self.left(left))" in lines[int(line) - 1]


def test_rules_find_its_layers_by_name(tmp_path: Path) -> None:
    read = load_exported(exported(tmp_path / "model.pt2", two().eval(), MODELS["two"][1]))
    config = qatc.QConfig(rules=(qatc.Rule("le*", weight_bits=4), qatc.Rule("out", quantize=False)))
    rows = {row.name: row.weight for row in qatc.prepare(read, MODELS["two"][1], config=config).report.rows}
    assert (rows["left"], rows["right"], rows["out"]) == ("s4/ch0", "s8/ch0", "")


class Cond(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))  # type: ignore[no-any-return]


class Cast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            y: Tensor = self.linear(x)
        return y


class Number(nn.Module):
    def forward(self, x: Tensor, times: int) -> Tensor:
        return x * times


@pytest.mark.parametrize(
    ("model", "inputs", "shapes", "said"),
    [
        (Cond(), (images(2, 4),), None, r"kind 'as_graph'|cond \(test_exported.py:\d+\)"),
        (Cast(), (images(2, 4),), None, r"torch.autocast"),
        (Number(), (images(2, 4), 3), ({}, torch.export.Dim.DYNAMIC), "a number as input"),
    ],
)
def test_what_is_not_read_is_refused_with_the_reason(
    model: nn.Module, inputs: tuple[object, ...], shapes: object, said: str, tmp_path: Path
) -> None:
    program = torch.export.export(model, inputs, dynamic_shapes=shapes)  # type: ignore[arg-type]
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(CheckpointError, match=said) as caught:
        load_exported(tmp_path / "model.pt2")
    assert "model.pt2" in str(caught.value)
    assert "try: " in str(caught.value)


def test_unknown_ops_are_named_with_their_places(tmp_path: Path) -> None:
    class Fake(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = torch.ops.aten._cdist_forward.default(x, x, 2.0, None)
            return y

    with pytest.raises(CheckpointError, match=r"_cdist_forward.default \(test_exported.py:\d+\)"):
        load_exported(exported(tmp_path / "model.pt2", Fake(), (images(2, 4),), fixed=True))


def test_other_files_are_no_exports(tmp_path: Path) -> None:
    torch.save(Two().state_dict(), tmp_path / "state.pt")
    (tmp_path / "text").write_text("hello")
    assert not is_exported(tmp_path / "state.pt")
    assert not is_exported(tmp_path / "text")
    assert not is_exported(tmp_path / "missing")
    assert is_exported(exported(tmp_path / "model.pt2", odd(), MODELS["odd"][1]))
