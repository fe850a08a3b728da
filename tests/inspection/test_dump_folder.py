import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from inline_snapshot import snapshot
from torch import fx

import qatc
from qatc.errors import QatcError
from qatc.inspection import MANIFEST, DumpFolder
from qatc.passes import DedupModules, Functionalize
from qatc.pipeline import Pass, PassEvent, Pipeline
from qatc.printer import format_graph
from qatc.trace import trace
from tests.inspection.networks import Residual, calibrated, manifest, steps
from tests.models import SharedRelu, images


@dataclass(frozen=True)
class Fails(Pass):
    name: ClassVar[str] = "fails"

    def run(self, gm: fx.GraphModule) -> bool:
        raise RuntimeError("out of order")


def test_the_list_has_every_pass_and_the_files_of_those_that_changed_something(tmp_path: Path) -> None:
    qatc.prepare(Residual(), images(), "tensorrt", "w8a8-pow2", dump_dir=tmp_path / "dumps")
    found = manifest(tmp_path / "dumps")
    steps = found.pop("steps")
    assert steps[0]["seconds"] > steps[1]["seconds"] >= 0
    assert found == {"qatc": qatc.__version__, "title": "Residual", "target": "tensorrt", "config": "w8a8-pow2"}
    assert set(steps[0]) == {"index", "name", "options", "changed", "seconds", "nodes", "text", "graph"}
    assert [step["index"] for step in steps] == list(range(len(steps)))
    assert all(Path(step["graph"]).stem == Path(step["text"]).stem for step in steps if step["changed"])
    assert all(step["graph"] is step["text"] is None for step in steps if not step["changed"])
    assert [(s["text"] or s["name"], s["options"], s["nodes"]) for s in steps] == snapshot(
        [
            ("00-trace.txt", "", 8),
            ("01-dedup-modules.txt", "", 8),
            ("02-functionalize.txt", "", 8),
            ("decompose-composites", "", 8),
            ("functional-to-layer", "", 8),
            ("05-functional-to-module.txt", "", 8),
            ("06-fuse-conv-bn-act.txt", "", 5),
            ("fold-bn-self", "", 5),
            ("08-insert-quantizers.txt", "target=tensorrt", 6),
            ("share-scales", "target=tensorrt", 6),
            ("10-constrain-pow2-scales.txt", "rounding=up", 6),
            ("leave-clips", "", 6),
        ]
    )


def test_each_graph_is_there_as_text_and_as_data(tmp_path: Path) -> None:
    texts: list[str] = []

    def keep(event: PassEvent) -> None:
        if event.changed:
            texts.append(format_graph(event.gm))

    qatc.prepare(Residual(), images(), dump_dir=tmp_path, observers=(keep,))
    graphs, _ = steps(tmp_path)
    assert [path.read_text() for path in sorted(tmp_path.glob("*.txt"))] == texts
    assert ["".join(node["text"] + "\n" for node in graph["nodes"]) for _, graph in graphs] == texts


def test_the_passes_of_lowering_are_dumped_too(tmp_path: Path) -> None:
    qatc.lower(calibrated(Residual()), tmp_path / "m.onnx", dump_dir=tmp_path / "dumps")
    found = manifest(tmp_path / "dumps")
    assert (found["title"], found["target"], found["config"]) == ("Residual", "onnxruntime", "w8a8")
    assert [step["text"] for step in found["steps"] if step["text"]] == snapshot(
        ["00-prepared.txt", "07-take-clips-back.txt", "09-lower-modules.txt"]
    )
    assert (tmp_path / "dumps" / "99-onnx.txt").exists()


def test_a_configuration_of_ones_own_is_listed_as_python(tmp_path: Path) -> None:
    config = qatc.QConfig(pow2="down")
    qatc.prepare(Residual(), images(), config=config, dump_dir=tmp_path)
    assert manifest(tmp_path)["config"] == repr(config)


def test_a_second_run_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    qatc.prepare(Residual(), images(), dump_dir=tmp_path)
    qatc.lower(calibrated(Residual()), tmp_path / "m.onnx", dump_dir=tmp_path)
    listed = {step[kind] for step in manifest(tmp_path)["steps"] for kind in ("text", "graph") if step[kind]}
    assert {p.name for p in tmp_path.iterdir()} == listed | {MANIFEST, "notes.txt", "m.onnx", "99-onnx.txt"}


def test_what_an_interrupted_run_wrote_can_be_read(tmp_path: Path) -> None:
    gm = trace(SharedRelu(), [images()])
    pipeline = Pipeline((DedupModules(), Fails(), Functionalize()))
    dumps = DumpFolder(tmp_path)
    pipeline.begin(gm, (dumps,), "trace")
    with pytest.raises(RuntimeError, match="out of order"):
        pipeline.run(gm, (dumps,))
    names = ["00-trace.json", "00-trace.txt", "01-dedup-modules.json", "01-dedup-modules.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names


def test_a_run_up_to_a_pass_has_its_list(tmp_path: Path) -> None:
    gm = trace(SharedRelu(), [images()])
    Pipeline((DedupModules(), Functionalize(), Fails())).run(gm, (DumpFolder(tmp_path),), until="functionalize")
    assert [step["name"] for step in manifest(tmp_path)["steps"]] == ["dedup-modules", "functionalize"]


def test_a_list_of_something_else_is_left(tmp_path: Path) -> None:
    for content in ('{"name": "app"}', "[]", "no json"):
        (tmp_path / MANIFEST).write_text(content)
        with pytest.raises(QatcError, match="this is not a list of dumps"):
            qatc.prepare(Residual(), images(), dump_dir=tmp_path)
        assert (tmp_path / MANIFEST).read_text() == content


def test_a_list_cannot_remove_files_elsewhere(tmp_path: Path) -> None:
    outside, folder = tmp_path / "precious.txt", tmp_path / "dumps"
    folder.mkdir()
    outside.write_text("mine")
    steps = [{"text": "../precious.txt", "graph": str(outside)}]
    (folder / MANIFEST).write_text(json.dumps({"steps": steps}))
    qatc.prepare(Residual(), images(), dump_dir=folder)
    assert outside.read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QatcError, match="the dumps cannot be written") as caught:
        qatc.prepare(Residual(), images(), dump_dir=tmp_path / "file" / "dumps")
    assert str(tmp_path / "file") in str(caught.value)
