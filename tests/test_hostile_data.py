"""Arrays, configurations and checkpoints that are made to do harm, or damaged by chance: refused, in bounded memory."""

import contextlib
import random
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import qatc
from qatc.cli import lower_main
from qatc.commands.arrays import read_arrays
from qatc.errors import CheckpointError, ConfigError, QatcError, VerificationError
from qatc.prepared import PreparedModel

MARK = "it-ran"


class Payload:
    def __reduce__(self) -> Any:
        return Path.touch, (Path(MARK),)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not Path(MARK).exists()


def npy(shape: str, dtype: str = "<f4", content: bytes = b"\0" * 64) -> bytes:
    """Return an .npy file with this header."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


LONG_HEADER = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**20) + b"(" * 2**20


def archive(path: Path, *entries: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content)


def _bomb(path: Path) -> None:
    """An array of zeros that packs to a thousandth of a size which no machine has."""
    archive(path, ("x.npy", npy("(4,)")))
    content = bytearray(path.read_bytes())
    size = struct.pack("<I", 0xFFFFFFFF)
    directory = content.index(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = size
    extra = struct.pack("<HHQ", 1, 8, 2**50)
    content[directory + 30 : directory + 32] = struct.pack("<H", len(extra))
    name_end = directory + 46 + len("x.npy")
    content[name_end:name_end] = extra
    end = content.index(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<I", end - directory)
    path.write_bytes(content)


ARRAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: None, "no such file"),
    "a folder": (lambda p: p.mkdir(), "Is a directory"),
    "empty": (lambda p: p.write_bytes(b""), "not a readable"),
    "text": (lambda p: p.write_text("hello"), "not a readable"),
    "objects": (lambda p: np.savez(p, x=np.array([Payload()], dtype=object)), "allow_pickle=False"),
    "a pickle": (lambda p: torch.save(Payload(), p), "not a readable"),
    "an archive of texts": (lambda p: archive(p, ("../../x.txt", b"hello")), "x.txt is in it"),
    "nothing": (lambda p: archive(p), "nothing is in it"),
    "an absurd shape": (lambda p: archive(p, ("x.npy", npy("(10**15,)".replace("10**15", str(10**15))))), "x|memory"),
    "a shape beyond integers": (lambda p: archive(p, ("x.npy", npy(f"({10**30}, 2)"))), "not a readable"),
    "a negative shape": (lambda p: archive(p, ("x.npy", npy("(-4,)"))), "not a readable"),
    "a shape that is code": (lambda p: archive(p, ("x.npy", npy(f"(open({MARK!r}, 'w'),)"))), "not a readable"),
    "a type that is code": (lambda p: archive(p, ("x.npy", npy("(4,)", f"O{MARK}"))), "not a readable"),
    "a long header": (lambda p: archive(p, ("x.npy", LONG_HEADER)), "not a readable"),
    "too little": (lambda p: archive(p, ("x.npy", npy("(400,)"))), "not a readable"),
    "more than memory": (_bomb, "more than half of this machine's memory"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_each_wrong_file_of_arrays_has_its_message(name: str, here: Path) -> None:
    make, said = ARRAYS[name]
    make(here / "x.npz")
    with limited_memory(), pytest.raises(VerificationError, match=said) as caught:
        read_arrays(here / "x.npz")
    assert "x.npz" in str(caught.value)


def test_arrays_under_one_name_are_refused_and_a_single_one_is_read(here: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive(here / "x.npz", ("x.npy", npy("(16,)")), ("x.npy", npy("(16,)")))
    with pytest.raises(VerificationError, match="two arrays of one name"):
        read_arrays(here / "x.npz")
    np.save(here / "x.npy", np.arange(3))
    assert list(read_arrays(here / "x.npy")) == ["arr_0"]
    np.savez_compressed(here / "z.npz", x=np.zeros((100, 100)))
    assert read_arrays(here / "z.npz")["x"].shape == (100, 100)


@contextlib.contextmanager
def limited_memory(more: int = 2**31) -> Iterator[None]:
    """Let the process have so many bytes of address space more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a good checkpoint."""
    path = tmp_path_factory.mktemp("whole") / "model.pt"
    torch.manual_seed(0)
    model = qatc.prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), torch.randn(2, 3, 8, 8))
    qatc.calibrate(model, [torch.randn(2, 3, 8, 8)], progress=False)
    qatc.save(model, path)
    return path.read_bytes()


def test_a_checkpoint_cut_anywhere_is_refused(whole: bytes, here: Path) -> None:
    for part in range(20):
        (here / "model.pt").write_bytes(whole[: len(whole) * part // 20])
        with pytest.raises(CheckpointError, match=r"cut short|is empty|damaged|not a qatc checkpoint"):
            qatc.load(here / "model.pt")


def test_an_archive_with_more_than_it_has_is_refused(whole: bytes, here: Path) -> None:
    file = here / "model.pt"
    file.write_bytes(whole)
    with zipfile.ZipFile(file, "a") as made, pytest.warns(UserWarning, match="Duplicate"):
        made.writestr(made.namelist()[0], b"again")
    with pytest.raises(CheckpointError, match="two entries of one name"):
        qatc.load(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("model/data.pkl", bytes(10**7))
    with pytest.raises(CheckpointError, match="an archive, not a qatc checkpoint"):
        qatc.load(file)


def test_any_flipped_byte_of_a_checkpoint_loads_or_is_refused(whole: bytes, here: Path) -> None:
    rng = random.Random(0)
    file = here / "model.pt"
    with limited_memory():
        for _ in range(150):
            content = bytearray(whole)
            for _ in range(rng.choice([1, 1, 3])):
                content[rng.randrange(len(content))] = rng.randrange(256)
            file.write_bytes(content)
            with contextlib.suppress(CheckpointError):
                assert isinstance(qatc.load(file), PreparedModel)


def _without_checks(content: bytes, path: Path) -> None:
    """Write an archive anew around another pickle, so that no checksum tells."""
    with zipfile.ZipFile(path) as made:
        entries = {name: made.read(name) for name in made.namelist()}
    with zipfile.ZipFile(path, "w") as made:
        for name, data in entries.items():
            made.writestr(name, content if name.endswith("/data.pkl") else data)


def test_any_change_of_its_pickle_loads_or_is_refused(whole: bytes, here: Path) -> None:
    """The pickle that torch reads with weights_only, its bytes changed at random and its checksum made right."""
    rng = random.Random(0)
    file = here / "model.pt"
    file.write_bytes(whole)
    with zipfile.ZipFile(file) as made:
        pickled = next(made.read(name) for name in made.namelist() if name.endswith("/data.pkl"))
    refused = 0
    with limited_memory():
        for _ in range(150):
            content = bytearray(pickled)
            for _ in range(rng.choice([1, 2, 5])):
                content[rng.randrange(len(content))] = rng.randrange(256)
            file.write_bytes(whole)
            _without_checks(bytes(content), file)
            try:
                assert isinstance(qatc.load(file), PreparedModel)
            except CheckpointError:
                refused += 1
    assert refused > 50


def test_scales_that_are_none_are_named_before_anything_is_written(whole: bytes, here: Path, capsys: Any) -> None:
    (here / "model.pt").write_bytes(whole)
    content = torch.load("model.pt", weights_only=True)
    for tensor in content["tensors"]:
        if tensor["data"].is_floating_point() and not tensor["parameter"]:
            tensor["data"] = torch.full_like(tensor["data"], float("nan"))
    torch.save(content, "model.pt")
    assert lower_main(["model.pt", "-o", "x.onnx"]) == 2
    assert "qatc: error: " in capsys.readouterr().err
    assert not Path("x.onnx").exists()


_KEYS = st.sampled_from(
    ["preset", "default", "rules", "schedule", "pow2", "target", "batch_norm", "weight_bits", "match"]
)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["w4a4", "re:(", "*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


def _toml(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case bool() | None:
            return str(bool(value)).lower()
        case str():
            return '"' + value.encode("unicode_escape").decode().replace('"', "'").replace("\\x", "\\u00") + '"'
        case _:
            return str(value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(_KEYS, _VALUES, max_size=4))
def test_any_configuration_is_one_or_is_refused(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("\n".join(f"{key} = {_toml(value)}" for key, value in content.items()), encoding="utf-8")
    with contextlib.suppress(ConfigError):
        assert isinstance(qatc.QConfig.from_toml(path), qatc.QConfig)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"a = " + b"[" * 10**5,
        b"a = " + b"9" * 10**5,
        b"[a." + b"b." * 5000 + b"c]",
        b"\x00",
        b"\x80\x04.",
    ],
    ids=["no utf-8", "deep", "a long number", "a long path", "zeros", "a pickle"],
)
def test_configurations_that_are_no_toml(content: bytes, here: Path) -> None:
    (here / "c.toml").write_bytes(content)
    with pytest.raises(QatcError, match=r"c\.toml"):
        qatc.QConfig.from_toml(here / "c.toml")
