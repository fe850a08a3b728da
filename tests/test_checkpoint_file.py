"""Files of every wrong kind are refused, each with its own message; a file is written whole or not at all."""

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qatc
from qatc.errors import CheckpointError

MARK = "it-ran"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A good checkpoint; behind the test, that nothing was run from it or from what replaced it."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    qatc.save(qatc.prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))), "model.pt")
    yield tmp_path / "model.pt"
    assert not Path(MARK).exists()


class Payload:
    def __reduce__(self) -> Any:
        return Path.touch, (Path(MARK),)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path.unlink(), "no such file"),
    "a folder": (_folder, "this is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "cut short"),
    "text": (lambda path: path.write_text("hello world"), "not a qatc checkpoint"),
    "an archive": (_archive, "not a qatc checkpoint"),
    "a state_dict": (
        lambda path: torch.save(nn.Linear(2, 2).state_dict(), path),
        r"is a state_dict(.|\n)*load_state_dict",
    ),
    "other data": (lambda path: torch.save([1, 2], path), "this torch file is not a qatc checkpoint"),
    "a module": (lambda path: torch.save(nn.Linear(2, 2), path), r"pickled(.|\n)*qatc.save(.|\n)*--trust-pickle"),
    "a payload": (lambda path: torch.save({"format": Payload()}, path), "pickled"),
    "a payload in an old file": (
        lambda path: torch.save(Payload(), path, _use_new_zipfile_serialization=False),
        "pickled",
    ),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps(Payload())), "pickled"),
}


@pytest.mark.parametrize("name", FILES)
def test_each_wrong_file_has_its_message(name: str, file: Path) -> None:
    make, message = FILES[name]
    make(file)
    with pytest.raises(CheckpointError, match=message) as caught:
        qatc.load(file)
    assert "model.pt" in str(caught.value)


def test_an_altered_weight_is_noticed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    weight = qatc.load(file).get_parameter("0.weight").detach().flatten()
    at = content.index(bytes(weight.view(torch.uint8).tolist()))
    content[at] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not what was written"):
        qatc.load(file)


def test_a_trusted_pickle_is_loaded_if_it_is_a_prepared_model(file: Path) -> None:
    model = qatc.load(file)
    torch.save(model, file)
    loaded = qatc.load(file, trust_pickle=True)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded.eval()(x), model.eval()(x))
    torch.save(nn.Linear(2, 2), file)
    with pytest.raises(CheckpointError, match="holds a Linear, not a prepared model"):
        qatc.load(file, trust_pickle=True)
    file.write_bytes(pickle.dumps(3))
    with pytest.raises(CheckpointError, match="cannot be read"):
        qatc.load(file, trust_pickle=True)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("full"), KeyboardInterrupt()])
@pytest.mark.parametrize("function", ["torch.save", "os.fsync", "os.replace"])
def test_an_interrupted_save_leaves_the_old_file(
    function: str, error: BaseException, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    model = qatc.load(file)

    def fail(*args: Any) -> None:
        if function == "torch.save":
            args[1].write(b"half of it")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(function, fail)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else CheckpointError) as caught:
            qatc.save(model, file)
    assert isinstance(caught.value, KeyboardInterrupt) or "model.pt" in str(caught.value)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == ["model.pt"]


@pytest.mark.parametrize("where", ["no/such/folder/model.pt", ".", "pipe"])
def test_a_path_that_cannot_be_written_is_refused(where: str, file: Path) -> None:
    os.mkfifo("pipe")
    with pytest.raises(CheckpointError, match=r"cannot write(.|\n)*at: (.|\n)*try: "):
        qatc.save(qatc.load(file), where)
    assert sorted(os.listdir()) == ["model.pt", "pipe"]


def test_the_mode_and_the_link_of_a_file_stay(file: Path) -> None:
    file.chmod(0o640)
    Path("latest.pt").symlink_to(file)
    qatc.save(qatc.load(file), "latest.pt")
    assert Path("latest.pt").is_symlink()
    assert file.stat().st_mode & 0o777 == 0o640
