"""Checkpoints that are made to do harm, or damaged inside: each is refused with its own message; nothing is run."""

import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qatc
from qatc.errors import CheckpointError
from qatc.prepared import PreparedModel

Content = dict[str, Any]
Change = Callable[[Content], object]

MARK = "it-ran"
CALL = f"__import__('pathlib').Path('{MARK}').touch()"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.shift = nn.Parameter(torch.zeros(4, 1, 1))

    def forward(self, x: torch.Tensor, mode: str = "plain") -> torch.Tensor:
        y = torch.maximum(self.bn(self.conv(x)), self.shift)
        return torch.cumprod(y.reshape(y.shape[0], -1).cumsum(1), 1)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A good checkpoint; behind the test, that nothing in it was run."""
    monkeypatch.chdir(tmp_path)
    qatc.save(qatc.prepare(Net(), torch.randn(2, 3, 8, 8)), "model.pt")
    yield tmp_path / "model.pt"
    assert not Path(MARK).exists()


def changed(file: Path, change: Change) -> Path:
    content = torch.load(file, weights_only=True)
    change(content)
    torch.save(content, file)
    return file


def node(content: Content, op: str) -> Any:
    return next(n for n in content["graph"] if n["op"] == op)


def conv(content: Content) -> Any:
    return next(m for m in content["modules"] if m["class"] == "qatc.modules.fused.FusedConv2d")


def _call(content: Content, function: str, *args: Any) -> None:
    node(content, "call_function").update(target=function, args=list(args), kwargs={})


def _shadow(content: Content) -> None:
    """Submodules called as what generated code would find before them: self.forward.__builtins__.get("eval")."""
    root = content["modules"].pop()
    empty = {**root, "attributes": {}, "parameters": {}, "buffers": {}, "children": {}}
    first = len(content["modules"])
    content["modules"] += [empty, {**empty, "children": {"get": first}}]
    content["modules"] += [{**empty, "children": {"__builtins__": first + 1}}, root]
    root["children"]["forward"] = first + 2
    node(content, "call_module").update(target="forward.__builtins__.get", args=["eval"], kwargs={})


def _meta(content: Content, key: str, value: Any) -> None:
    next(pair for pair in node(content, "call_module")["meta"]["dict"] if pair[0] == key)[1] = value


NAMES: dict[str, tuple[Change, str]] = {
    "placeholder": (lambda c: node(c, "placeholder").update(target=f"x={CALL}"), "is not a name"),
    "keyword": (lambda c: node(c, "placeholder").update(target="lambda"), "is not a name"),
    "node name": (lambda c: node(c, "call_module").update(name=f"y={CALL};y"), "is not a name"),
    "name of a builtin": (lambda c: node(c, "call_module").update(name="print"), "cannot be the name of a node"),
    "module path": (lambda c: node(c, "call_module").update(target=f'a", {CALL}) or (self, "b'), "is not a name"),
    "path of no module": (lambda c: node(c, "call_module").update(target="__class__.__init__"), "does not have"),
    "path of a method": (_shadow, "'forward.__builtins__.get', which the model does not have"),
    "name in another form": (
        lambda c: conv(c)["children"].update({"\uff3f\uff3fclass\uff3f\uff3f": 0}),
        "is not a name",
    ),
    "path of a tensor": (lambda c: node(c, "call_module").update(target="shift"), "which is no module"),
    "attribute path": (lambda c: node(c, "get_attr").update(target=f'a", {CALL}) or (self, "b'), "is not a name"),
    "a child": (lambda c: conv(c)["children"].update({f'a", {CALL}, "b': 0}), "is not a name"),
    "method": (lambda c: node(c, "call_method").update(target=f"relu();{CALL};y.relu"), "is not a name"),
    "private method": (lambda c: node(c, "call_method").update(target="__reduce__"), "method '.__reduce__'"),
    "method that calls": (lambda c: node(c, "call_method").update(target="apply_"), "method '.apply_'"),
    "method of a text": (lambda c: node(c, "call_method").update(args=["{0.__class__}"]), "not of a value"),
    "attribute": (lambda c: _call(c, "builtins.getattr", {"node": "x"}, "__class__"), "attribute '.__class__'"),
    "attribute of a class": (lambda c: _call(c, "builtins.getattr", "x", "shape"), "not of a value"),
    "keyword argument": (lambda c: node(c, "call_module")["kwargs"].update({f"a={CALL},b": 1}), "is not a name"),
    "class of the model": (lambda c: c.update(name=f"M:\n {CALL}\nclass N"), "is not a name"),
    "an op": (lambda c: node(c, "call_module").update(op=f"call_module;{CALL}"), "no kind of node"),
    "meta": (lambda c: _meta(c, "why_float", f'""";{CALL};"""'), "is described by"),
    "type": (lambda c: _meta(c, "type", ["load", []]), "has a type that is none"),
    "source": (lambda c: _meta(c, "source", [1, 2, 3]), "has a source that is none"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_would_be_code_is_refused(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FX_GRAPH_SHOW_META", "1")
    change, message = NAMES[name]
    with pytest.raises(CheckpointError, match=message):
        qatc.load(changed(file, change))


def test_texts_stay_texts(file: Path) -> None:
    qatc.save(qatc.prepare(Net()), file)  # traced without inputs, it keeps arguments that have defaults
    text = f"\"'''\\\n{CALL}"
    default = lambda c: next(n for n in c["graph"] if n["target"] == "mode").update(args=[text])  # noqa: E731
    loaded = qatc.load(changed(file, default))
    assert next(n for n in loaded.graph.nodes if n.target == "mode").args == (text,)
    loaded(torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    "name",
    [
        "os.system", "posix.system", "torch.load", "torch.save", "torch.hub.load", "torch.from_file", "torch.compile",
        "builtins.eval", "builtins.exec", "builtins.__import__", "operator.methodcaller", "operator.attrgetter",
        "operator.call", "subprocess.run", "torch.serialization.load", "qatc.checkpoint.load", "torch.ops.load_library",
    ],
)  # fmt: skip
def test_a_function_off_the_list_is_refused(name: str, file: Path) -> None:
    with pytest.raises(CheckpointError, match=f"function '{name}'(.|\n)*allow="):
        qatc.load(changed(file, lambda c: _call(c, name, "echo")))


@pytest.mark.parametrize(
    "name", ["subprocess.Popen", "torch.nn.parallel.DataParallel", "qatc.passes.fold_bn_self.FoldBnSelf", "x y", ""]
)
def test_a_class_off_the_list_is_refused(name: str, file: Path) -> None:
    with pytest.raises(CheckpointError, match=f"class '{name}'"):
        qatc.load(changed(file, lambda c: conv(c).update({"class": name})))


@pytest.mark.parametrize("name", ["qatc.modules.fused.nn", "torch.nn.modules.conv.Tensor", "qatc.modules.gone.Conv"])
def test_only_module_classes_are_built(name: str, file: Path) -> None:
    with pytest.raises(CheckpointError, match="no module class"):
        qatc.load(changed(file, lambda c: conv(c).update({"class": name})))


def _tensor(content: Content) -> Any:
    return content["tensors"][0]


DAMAGE: dict[str, tuple[Change, str]] = {
    "a cycle": (lambda c: conv(c)["children"].update(me=len(c["modules"]) - 1), "does not hold"),
    "a negative number": (lambda c: conv(c)["parameters"].update(weight=-1), "does not hold"),
    "a buffer as parameter": (
        lambda c: conv(c)["parameters"].update(weight=[t["parameter"] for t in c["tensors"]].index(False)),
        "does not hold",
    ),
    "hooks": (lambda c: conv(c)["attributes"].update(_forward_hooks={"dict": []}), "sets _forward_hooks"),
    "a class as attribute": (lambda c: conv(c)["attributes"].update(__class__=1), "sets __class__"),
    "a function as argument": (lambda c: _call(c, "torch.relu", {"function": "torch.relu"}), "stands where a value"),
    "an absurd size": (
        lambda c: _tensor(c).update(data=torch.ones(1).expand(10**15), shape=[10**15], dtype="float32"),
        r"float32\[1000000000000000\](.|\n)*in 4 bytes",
    ),
    "another shape": (lambda c: _tensor(c).update(shape=[10**15]), "a tensor declared as"),
    "another dtype": (lambda c: _tensor(c).update(dtype="int8"), "a tensor declared as"),
    "no tensor": (lambda c: _tensor(c).update(data=[1.0]), "where a tensor should"),
    "a meta tensor": (lambda c: _tensor(c).update(data=torch.ones(4, device="meta")), "where a tensor should"),
    "a node that is not there": (lambda c: node(c, "call_module").update(args=[{"node": "y"}]), "lacks 'y'"),
    "no output": (lambda c: c["graph"].pop(), "damaged"),
    "two outputs": (lambda c: c["graph"].append({**c["graph"][-1], "name": "again"}), "goes on behind"),
    "no modules": (lambda c: c["modules"].clear(), "damaged"),
    "a newer version": (lambda c: c.update(version=99, qatc="9.9"), r"format 99, written by qatc 9\.9"),
    "a version of nothing": (lambda c: c.update(version="1"), "format 1"),
    "no graph": (lambda c: c.pop("graph"), "lacks graph"),
    "no keys": (lambda c: [c.pop(key) for key in ("target", "config")], "lacks target, config"),
    "part of a node": (lambda c: node(c, "output").pop("args"), "lacks 'args'"),
    "an unknown target": (lambda c: c.update(target="abacus"), "'abacus'"),
    "a spec for a config": (lambda c: c.update(config={"settings": ["QuantSpec", {"dict": []}]}), "QuantSpec stands"),
    "a bad spec": (lambda c: c.update(config={"settings": ["QuantSpec", {"dict": [["bits", 99]]}]}), "99 bits"),
    "a wrong input": (lambda c: c.update(inputs=[["load", [1]]]), "damaged"),
    "an input of no type": (lambda c: c["inputs"][0].__setitem__(1, "load"), "is no input"),
    "an input of no size": (lambda c: c["inputs"][0].__setitem__(2, [CALL]), "is no input"),
    "an input at no name": (lambda c: c["inputs"][0].__setitem__(0, [[["x"], 0, False]]), "is no input"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damage_has_its_message(name: str, file: Path) -> None:
    change, message = DAMAGE[name]
    with pytest.raises(CheckpointError, match=message) as caught:
        qatc.load(changed(file, change))
    assert "model.pt" in str(caught.value)


def test_any_single_change_loads_or_is_refused(file: Path) -> None:
    """A hundred random changes: no other error ever comes out."""
    whole = torch.load(file, weights_only=True)
    rng = random.Random(0)
    refused = 0
    for _ in range(100):
        content = pickle.loads(pickle.dumps(whole))
        at: Any = content
        while isinstance(at, dict | list) and at:
            holder, key = at, rng.choice(list(at) if isinstance(at, dict) else range(len(at)))
            at = holder[key]
        holder[key] = rng.choice([None, -1, 10**30, "", "a.b", CALL, [], {}, {"node": "x"}, {"x": 1}, torch.ones(1)])
        torch.save(content, file)
        try:
            assert isinstance(qatc.load(file), PreparedModel)
        except CheckpointError:
            refused += 1
    assert refused > 50
