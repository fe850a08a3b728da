"""What is saved comes back the same: outputs, reports, training, ties and flags, from a file and from a pickle."""

import copy
import importlib
import io
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import qatc
from qatc.errors import CheckpointError, ConfigError
from qatc.prepared import PreparedModel
from qatc.printer import format_graph
from qatc.quantizers import Quantizer
from qatc.targets import TARGETS

Way = Callable[[PreparedModel, Path], Any]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small only wait for threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Net(nn.Module):
    """Fused layers, a residual add, a concatenation, functions, methods, sizes, a default and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.blocks = nn.ModuleDict({"3x3": nn.Conv2d(8, 8, 3, padding=1), "act-1": nn.ReLU6()})
        self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 16)
        self.down.weight = self.up.weight

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        y = F.relu(self.bn(self.conv(x)))
        z = self.blocks["act-1"](self.blocks["3x3"](y)) + y
        z = F.max_pool2d(torch.cat([y, z], 1), 2).mean((2, 3))
        result: Tensor = self.down(self.up(z.view(x.shape[0], -1))).clamp(min=-3)[..., :10] * scale
        return result


def prepared(
    config: str | qatc.QConfig = "w8a8", target: Any = "onnxruntime", calibrated: bool = True
) -> PreparedModel:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    model = qatc.prepare(Net(), (x,), target=target, config=config)
    if calibrated:
        qatc.calibrate(model, [x], progress=False)
    return model


def by_file(model: PreparedModel, folder: Path) -> Any:
    qatc.save(model, folder / "model.pt")
    return qatc.load(folder / "model.pt")


def by_pickle(model: PreparedModel, folder: Path) -> Any:
    return pickle.loads(pickle.dumps(model))


def by_torch_save(model: PreparedModel, folder: Path) -> Any:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def by_deepcopy(model: PreparedModel, folder: Path) -> Any:
    return copy.deepcopy(model)


WAYS: tuple[Way, ...] = (by_file, by_pickle, by_torch_save, by_deepcopy)


def losses(model: nn.Module) -> list[float]:
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    found = []
    for _ in range(3):
        loss = model(torch.randn(4, 3, 8, 8)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def check_same(one: PreparedModel, other: PreparedModel) -> None:
    assert type(other).__mro__[1] is PreparedModel
    assert format_graph(other) == format_graph(one)
    assert str(other.report) == str(one.report)
    assert other.prepared_for == one.prepared_for
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[k].nan_to_num(), theirs[k].nan_to_num()) for k in ours)
    for (name, a), (twin_name, b) in zip(one.named_modules(), other.named_modules(), strict=True):
        assert (name, a.training, a.extra_repr()) == (twin_name, b.training, b.extra_repr())
        if name:
            assert type(a) is type(b)
    flags = [(n, p.requires_grad) for n, p in one.named_parameters()]
    assert flags == [(n, p.requires_grad) for n, p in other.named_parameters()]
    assert [n for n, _ in one.named_buffers()] == [n for n, _ in other.named_buffers()]
    modes = [module.training for module in one.modules()]
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(one.eval()(x), other.eval()(x))
    for model in (one, other):
        for module, training in zip(model.modules(), modes, strict=True):
            module.training = training
    assert losses(other) == losses(one)


@pytest.mark.parametrize("calibrated", [False, True], ids=["fresh", "calibrated"])
@pytest.mark.parametrize("target", ["onnxruntime", "tensorrt"])
@pytest.mark.parametrize("config", ["w8a8", "w8a8-pow2", "w4a4"])
def test_a_loaded_model_is_the_saved_one(config: str, target: str, calibrated: bool, tmp_path: Path) -> None:
    model = prepared(config, target, calibrated)
    check_same(model, by_file(model, tmp_path))


@pytest.mark.parametrize("way", WAYS)
def test_flags_ties_and_settings_survive(way: Way, tmp_path: Path) -> None:
    """In the middle of a training: statistics frozen, a layer not trained, some quantizers off, mixed modes."""
    model = prepared("w4a4")
    losses(model)
    qatc.freeze_bn(model)
    qatc.freeze_ranges(model)
    model.get_submodule("conv").requires_grad_(False)
    model.get_submodule("bn").eval()
    quantizers = [m for m in model.modules() if isinstance(m, Quantizer)]
    quantizers[0].enabled = False
    twin = way(model, tmp_path)
    assert twin.up.weight is twin.down.weight
    assert twin.conv.bn_frozen
    found = [m for m in twin.modules() if isinstance(m, Quantizer)]
    assert [(q.enabled, q.observing, q.spec) for q in found] == [(q.enabled, q.observing, q.spec) for q in quantizers]
    check_same(model, twin)
    # The ranges of the loaded model follow load_state_dict: it knows again that there are none.
    twin.load_state_dict(prepared("w4a4", calibrated=False).state_dict())
    assert not twin.x_q.ready


def test_layers_of_torch_with_state_of_their_own_survive(tmp_path: Path) -> None:
    """An LSTM lists its weights once more, attention has a class of its own inside, an encoder holds a function."""

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 8, batch_first=True)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.encoder = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=F.gelu, batch_first=True)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.lstm(x)[0]
            result: Tensor = self.head(self.encoder(x + self.attention(x, x, x)[0]))
            return result

    model = qatc.prepare(Sequence().eval())
    twin = by_file(model, tmp_path)
    x = torch.randn(2, 5, 8)
    assert torch.equal(twin(x), model(x))
    assert twin.lstm._flat_weights[0] is twin.lstm.weight_ih_l0
    assert twin.encoder.activation is F.gelu


def test_not_persistent_and_expanded_buffers_survive(tmp_path: Path) -> None:
    model = prepared()
    model.get_submodule("conv").register_buffer("seen", torch.ones(1).expand(1000), persistent=False)
    twin = by_file(model, tmp_path)
    assert torch.equal(twin.conv.seen, torch.ones(1000))
    assert "conv.seen" not in twin.state_dict()


def test_a_rule_comes_back_as_far_as_data_can_say_it(tmp_path: Path) -> None:
    rules = (
        qatc.Rule("conv", weight_bits=4),
        qatc.Rule(nn.Linear, weight_bits=6),
        qatc.Rule(lambda name, module: name == "down", weight_bits=5),
    )
    model = prepared(qatc.QConfig(rules=rules))
    loaded = by_file(model, tmp_path)
    assert str(loaded.report) == str(model.report)
    assert loaded.prepared_for is not None
    assert loaded.prepared_for.config.rules[:2] == rules[:2]
    assert loaded.prepared_for.config.rules[2].weight_bits == 5
    with pytest.raises(ConfigError, match="was not saved"):
        loaded.prepared_for.config.rules[2].match("down", nn.Linear(1, 1))
    assert by_file(loaded, tmp_path).prepared_for == loaded.prepared_for


def test_a_target_of_the_users_own_is_saved_whole(tmp_path: Path) -> None:
    own = replace(TARGETS["tensorrt"], name="own chip", concat="free")
    made_for = by_file(prepared(target=own), tmp_path).prepared_for
    assert made_for is not None
    assert made_for.target == own


def test_the_same_model_gives_the_same_file(tmp_path: Path) -> None:
    model = prepared()
    for name in ("a.pt", "b.pt"):
        qatc.save(model, tmp_path / name)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


LEAF = """
from torch import nn
class Leaf(nn.Module):
    def __init__(self, gain, note=None):
        raise AssertionError("loading calls no constructor")
    def forward(self, x):
        return x * self.gain
"""


def leaf_model(monkeypatch: pytest.MonkeyPatch, folder: Path) -> PreparedModel:
    (folder / "users_module.py").write_text(LEAF)
    monkeypatch.syspath_prepend(str(folder))
    users_module = importlib.import_module("users_module")

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    leaf = users_module.Leaf.__new__(users_module.Leaf)
    nn.Module.__init__(leaf)
    leaf.gain = 3.0
    root = nn.Sequential(leaf)
    return PreparedModel(root, Tracer().trace(root))


def test_a_leaf_class_of_the_users_own_is_built_where_it_is_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = leaf_model(monkeypatch, tmp_path)
    qatc.save(model, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"class 'users_module.Leaf'(.|\n)*allow=\('users_module.Leaf',\)"):
        qatc.load(tmp_path / "model.pt")
    loaded = qatc.load(tmp_path / "model.pt", allow=["users_module.Leaf"])
    assert loaded(torch.ones(2)).tolist() == [3.0, 3.0]
    assert by_pickle(model, tmp_path)(torch.ones(2)).tolist() == [3.0, 3.0]
    (tmp_path / "users_module.py").write_text("")
    monkeypatch.delitem(sys.modules, "users_module")
    with pytest.raises(CheckpointError, match="cannot be imported"):
        qatc.load(tmp_path / "model.pt", allow=["users_module.Leaf"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda conv: setattr(conv, "hook", lambda: 0), "attribute 'hook'(.|\n)*'conv'"),
        (lambda conv: setattr(conv, "seen", torch.ones(1)), "attribute 'seen'(.|\n)*Tensor(.|\n)*buffer"),
        (lambda conv: setattr(conv, "more", [nn.ReLU()]), "attribute 'more'(.|\n)*ReLU"),
        (lambda conv: conv.add_module('a"b', nn.ReLU()), "not a name"),
        (lambda conv: conv.add_module("local", type("Local", (nn.Module,), {})()), "Local cannot be saved"),
        (lambda conv: conv.add_module("lazy", nn.LazyLinear(3)), "conv.lazy.weight(.|\n)*UninitializedParameter"),
    ],
)
def test_what_is_no_data_is_refused_by_name(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    model = prepared(calibrated=False)
    change(model.get_submodule("conv"))
    with pytest.raises(CheckpointError, match=message):
        qatc.save(model, tmp_path / "model.pt")
    assert os.listdir(tmp_path) == []


def test_only_prepared_models_are_saved(tmp_path: Path) -> None:
    wrapped: Any = nn.DataParallel(prepared(calibrated=False))
    with pytest.raises(CheckpointError, match=r"DataParallel(.|\n)*model\.module"):
        qatc.save(wrapped, tmp_path / "model.pt")


def test_a_file_of_format_1_which_had_no_names_of_inputs_is_read(tmp_path: Path) -> None:
    gm = qatc.prepare(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.zeros(4, 3, 8, 8))
    qatc.save(gm, tmp_path / "model.pt")
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    torch.save(content | {"version": 1, "inputs": [["float32", [4, 3, 8, 8]]]}, tmp_path / "old.pt")
    assert qatc.load(tmp_path / "old.pt").prepared_for == gm.prepared_for
