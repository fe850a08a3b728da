"""Files of torch.export that are made to do harm, or damaged: refused with the reason; nothing of them is run."""

import contextlib
import functools
import io
import json
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qatc.errors import CheckpointError
from qatc.exported import ExportedModel, load_exported
from tests.exported.exports import MODELS, exported, two
from tests.models import images, randomise

Entries = dict[str, bytes]
Change = Callable[[Any], object]

MARK = "it-ran"
CALL = f"__import__('pathlib').Path('{MARK}').touch()"


class Payload:
    def __reduce__(self) -> Any:
        return Path.touch, (Path(MARK),)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a good file."""
    return exported(tmp_path_factory.mktemp("whole") / "m.pt2", two(), MODELS["two"][1]).read_bytes()


@pytest.fixture
def file(whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A good file; behind the test, that nothing in it was run, and nothing written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt2").write_bytes(whole)
    yield tmp_path / "model.pt2"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt2"]


def rewritten(file: Path, change: Callable[[Entries], object], compression: int = zipfile.ZIP_STORED) -> Path:
    """Change the entries of the archive, by their names without its root folder."""
    with zipfile.ZipFile(file) as archive:
        root = archive.namelist()[0].partition("/")[0]
        entries = {name.removeprefix(f"{root}/"): archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"{root}/{name}", content)
    return file


def with_json(name: str, change: Change) -> Callable[[Entries], object]:
    def apply(entries: Entries) -> None:
        data = json.loads(entries[name])
        change(data)
        entries[name] = json.dumps(data).encode()

    return apply


def graph(change: Change) -> Callable[[Entries], object]:
    return with_json("models/model.json", lambda data: change(data["graph_module"]))


def weights(change: Change) -> Callable[[Entries], object]:
    return with_json("data/weights/model_weights_config.json", lambda data: change(data["config"]))


def node(module: Any, target: str = "") -> Any:
    return next(n for n in module["graph"]["nodes"] if target in n["target"])


def _replace(texts: Entries, entries: Entries) -> None:
    entries.update(texts)


def called(module: Any, target: str) -> None:
    node(module, "relu").update(target=target)


def meta(**given: Any) -> Callable[[Entries], object]:
    return weights(lambda config: config["left.weight"]["tensor_meta"].update(given))


def _pickled(entries: Entries) -> None:
    buffer = io.BytesIO()
    torch.save(Payload(), buffer)
    entries["data/weights/weight_0"] = buffer.getvalue()
    weights(lambda config: config["left.weight"].update(use_pickle=True))(entries)


def _object(prefix: str) -> Callable[[Entries], object]:
    def apply(entries: Entries) -> None:
        entries[f"data/constants/{prefix}0"] = pickle.dumps(Payload())
        entry = {"path_name": f"{prefix}0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        name = "data/constants/model_constants_config.json"
        with_json(name, lambda data: data["config"].update(thing=entry))(entries)

    return apply


def _sizes(*sizes: int) -> list[dict[str, int]]:
    return [{"as_int": size} for size in sizes]


def _parameter(module: Any, name: str) -> None:
    module["signature"]["input_specs"][0]["parameter"]["parameter_name"] = name


def _stack(module: Any, text: str) -> None:
    node(module, "relu")["metadata"]["nn_module_stack"] = text


HARM: dict[str, tuple[Callable[[Entries], object], str]] = {
    "a pickle for a weight": (_pickled, "pickled, and no plain tensor"),
    "an opaque object": (_object("opaque_obj_"), "'thing', an object of some class"),
    "a custom object": (_object("custom_obj_"), "'thing', an object of some class"),
    "a function off the list": (graph(lambda m: called(m, "torch.load")), "torch.load"),
    "a maker of files": (graph(lambda m: called(m, "torch.ops.aten.from_file.default")), "from_file"),
    "an operator that calls": (graph(lambda m: called(m, "_operator.methodcaller")), "methodcaller"),
    "a way through dunders": (graph(lambda m: called(m, "math.__loader__")), "math.__loader__"),
    "a method that calls": (graph(lambda m: called(m, "torch.ops.aten.apply_.default")), "apply_"),
    "an op that is code": (graph(lambda m: called(m, CALL)), "cannot be read"),
    "an extension": (graph(lambda m: called(m, "#posix:system")), "cannot be read"),
    "a name of dunders": (graph(lambda m: _parameter(m, "left.__class__")), "lacks|damaged"),
    "a name that is code": (graph(lambda m: _parameter(m, f'a", {CALL}, "b')), "is not a name"),
    "a module's name that is code": (graph(lambda m: _stack(m, f'a,b"{CALL}",c')), "is not a name"),
    "an input that is code": (
        graph(lambda m: m["signature"]["input_specs"][-1].update(user_input={"arg": {"as_tensor": {"name": CALL}}})),
        "number as input|is not a name",
    ),
    "a keyword argument that is code": (
        graph(lambda m: node(m, "relu")["inputs"][0].update(kind=2, name=f"a={CALL},b")), "is not a name",
    ),
    "an absolute path": (weights(lambda c: c["left.weight"].update(path_name="/etc/passwd")), "said to be in"),
    "a path upwards": (weights(lambda c: c["left.weight"].update(path_name="../../x")), "said to be in"),
    "an absurd size": (meta(sizes=_sizes(10**8, 10**8)), r"float32\[100000000, 100000000\], in 512 bytes"),
    "absurd strides": (meta(strides=_sizes(10**9, 1)), "in 512 bytes"),
    "an absurd offset": (meta(storage_offset={"as_int": 2**62}), "in 512 bytes"),
    "a repeated element": (meta(sizes=_sizes(10**9, 10**3), strides=_sizes(0, 0)), "in 512 bytes"),
    "a size of nothing": (meta(sizes=_sizes(0, 2**62)), "damaged"),
    "a negative size": (meta(sizes=_sizes(-1, 8)), "is no size"),
    "a size that is code": (meta(sizes=[{"as_expr": {"expr_str": CALL}}]), "is no size"),
    "an unknown dtype": (meta(dtype=99), "damaged: KeyError"),
    "a missing weight": (weights(lambda c: c.pop("left.weight")), "damaged: KeyError: 'left.weight'"),
    "a cycle": (
        graph(lambda m: node(m, "relu")["inputs"][0]["arg"]["as_tensor"].update(name="linear_2")), "before it is there",
    ),
    "no graph": (lambda e: e.pop("models/model.json"), "0 programs"),
    "two graphs": (lambda e: e.update({"models/other.json": b"{}"}), "2 programs"),
    "no JSON": (lambda e: e.update({"models/model.json": b"\xff{"}), "no JSON"),
    "deep JSON": (lambda e: e.update({"models/model.json": b"[" * 10**6}), "no JSON"),
    "other JSON": (lambda e: e.update({"models/model.json": b"[1]"}), "damaged"),
    "a newer schema": (
        with_json("models/model.json", lambda d: d["schema_version"].update(major=9)), "schema 9 of torch.export",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HARM)
def test_each_harm_has_its_message(name: str, file: Path) -> None:
    change, said = HARM[name]
    with pytest.raises(CheckpointError, match=said) as caught:
        load_exported(rewritten(file, change))
    assert "model.pt2" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        with_json("models/model.json", lambda d: d.update(guards_code=[CALL])),
        graph(lambda m: m["graph"]["sym_int_values"].update(s0={"as_expr": {"expr_str": CALL, "hint": None}})),
        lambda e: e.update({"data/sample_inputs/model.pt": pickle.dumps(Payload())}),
        lambda e: e.update({"data/aotinductor/model/a.wrapper.so": b"\x7fELF", "extra/../../up": b"x"}),
    ],
    ids=["guards", "sizes", "sample inputs", "compiled code"],
)
def test_what_torch_would_run_is_not_even_read(change: Callable[[Entries], object], file: Path) -> None:
    assert isinstance(load_exported(rewritten(file, change)), ExportedModel)


def test_archives_that_unpack_to_more_than_they_are(file: Path) -> None:
    whole = file.read_bytes()
    rewritten(file, lambda e: e.update(bomb=bytes(10**7)), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="this is an archive, not a program"):
        load_exported(file)
    file.write_bytes(whole)
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"again")
    with pytest.raises(CheckpointError, match="two entries of one name"):
        load_exported(file)
    file.write_bytes(whole)
    with zipfile.ZipFile(file, "a") as archive:
        first = archive.infolist()[0]
        for number in range(300):  # one block of bytes under many names
            twin = zipfile.ZipInfo(f"{first.filename}x{number}")
            for field in ("header_offset", "file_size", "compress_size", "CRC", "compress_type"):
                setattr(twin, field, getattr(first, field))
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="declares more bytes than it has"):
        load_exported(file)


def test_a_file_cut_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for part in range(20):
        file.write_bytes(whole[: len(whole) * part // 20])
        with pytest.raises(CheckpointError):
            load_exported(file)


def test_any_single_change_loads_or_is_refused(file: Path) -> None:
    """Random values anywhere in the graph or the weights' types: no other error ever comes out."""
    with zipfile.ZipFile(file) as archive:
        texts = {n.partition("/")[2]: archive.read(n) for n in archive.namelist() if n.endswith(".json")}
    rng = random.Random(0)
    values: list[Any] = [
        None,
        -1,
        10**30,
        1.5,
        "",
        "a.b",
        CALL,
        [],
        {},
        {"as_int": 3},
        {"as_tensor": {"name": "x"}},
        True,
    ]
    refused = 0
    for _ in range(250):
        name = rng.choice(["models/model.json", "models/model.json", "data/weights/model_weights_config.json"])
        data = json.loads(texts[name])
        at: Any = data
        while isinstance(at, dict | list) and at:
            holder, key = at, rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
            at = holder[key]
        holder[key] = rng.choice(values)
        rewritten(file, functools.partial(_replace, {name: json.dumps(data).encode()}))
        try:
            assert isinstance(load_exported(file), ExportedModel)
        except CheckpointError:
            refused += 1
        rewritten(file, functools.partial(_replace, texts))
    assert refused > 40


def test_any_flipped_byte_is_noticed(whole: bytes, file: Path) -> None:
    rng = random.Random(1)
    for _ in range(150):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            assert isinstance(load_exported(file), ExportedModel)  # a byte of padding, or of a date


def test_a_linked_file_is_read_through_the_link(file: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("links") / "link.pt2"
    link.symlink_to(file)
    assert isinstance(load_exported(link), ExportedModel)
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(CheckpointError, match="cannot read the file"):
        load_exported(link)


def test_values_in_a_file_may_be_anything_finite_or_not(file: Path) -> None:
    model = randomise(nn.Linear(4, 4))
    with torch.no_grad():
        model.get_parameter("weight")[0, 0] = float("nan")
    exported(file, nn.Sequential(model), (images(2, 4),))
    assert torch.isnan(load_exported(file).get_parameter("0.weight")[0, 0])
