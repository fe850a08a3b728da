"""Modules: leaves with an open batch, what is looked into, weights that are computed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from qatc.errors import QatcWarning
from qatc.ir import notes
from qatc.trace import trace
from tests.models import conv, images, randomise
from tests.tracing.check_trace import check_trace, targets


class Recurrent(nn.Module):
    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(6, 4, batch_first=True, **options)
        self.fc = nn.Linear(8 if options.get("bidirectional") else 4, 3)

    def forward(self, x: Tensor) -> Any:
        y, state = self.rnn(x)
        return self.fc(y[:, -1]), state


@pytest.mark.parametrize(
    "model",
    [Recurrent(nn.LSTM), Recurrent(nn.LSTM, num_layers=2, bidirectional=True), Recurrent(nn.GRU)],
    ids=["lstm", "deep", "gru"],
)
def test_a_recurrent_layer_has_an_open_batch(model: nn.Module) -> None:
    """Trap 7."""
    gm = check_trace(model, images(2, 5, 6))
    assert targets(gm, "call_module") == ["rnn", "fc"]
    assert notes(gm) == ()


def test_a_recurrent_layer_with_a_state_made_for_the_batch() -> None:
    class Stated(Recurrent):
        def forward(self, x: Tensor) -> Any:
            state = x.new_zeros(1, x.size(0), 4)
            return self.fc(self.rnn(x, (state, state))[0])

    check_trace(Stated(nn.LSTM), images(2, 5, 6))


@pytest.mark.parametrize("layers", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_layers_of_transformers_are_looked_into(layers: Any) -> None:
    """Trap 8: their fused call in eval mode hides them."""

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = layers(8, 2, 16, dropout=0.0, batch_first=True)
            decodes = layers is nn.TransformerDecoderLayer
            self.net: Any = (nn.TransformerDecoder if decodes else nn.TransformerEncoder)(layer, 2)
            self.extra = 1 if decodes else 0

        def forward(self, x: Tensor) -> Any:
            return self.net(x, *([x] * self.extra))

    gm = check_trace(Transformer(), images(2, 5, 8))
    assert {f"net.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)} <= set(targets(gm, "call_module"))


class Twice(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w + w.transpose(0, 1) * 0.5


def weighted(kind: str) -> nn.Module:
    layers: list[Any] = [conv(3, 4), conv(4, 4), nn.Linear(8, 8)]
    if kind == "hook":
        with pytest.warns(FutureWarning, match="weight_norm"):
            layers = [nn.utils.weight_norm(layer) for layer in layers]
    elif kind == "weight_norm":
        layers = [parametrizations.weight_norm(layer) for layer in layers]
    else:
        parametrize.register_parametrization(layers[1], "weight", Twice())
        parametrize.register_parametrization(layers[2], "weight", Twice())
    return nn.Sequential(*layers)


@pytest.mark.parametrize("kind", ["hook", "weight_norm", "own"])
def test_computed_weights_train_what_they_are_computed_from(kind: str) -> None:
    model = weighted(kind)
    gm = check_trace(model, images())
    names = {name for name, _ in model.named_parameters()}
    read = set(targets(gm))
    assert {name for name in names if name.endswith(("_g", "_v", "original0", "original1", "original"))} <= read


def test_a_compiled_submodule_is_looked_into() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.compile(conv(3, 4))
            self.body = torch.compile(nn.Sequential(conv(4, 4), nn.ReLU()))

        def forward(self, x: Tensor) -> Any:
            return self.body(self.stem(x))

    class Plain(Outer):
        def __init__(self) -> None:
            super().__init__()
            compiled: Any = self
            self.stem, self.body = compiled.stem._orig_mod, compiled.body._orig_mod

    model = randomise(Outer())
    gm = trace(model, images())
    assert [name.replace("_orig_mod.", "").replace("._orig_mod", "") for name in targets(gm, "call_module")] == [
        "stem", "body.0", "body.1",
    ]  # fmt: skip
    plain = randomise(Plain())
    torch.testing.assert_close(gm.eval()(images()), plain.eval()(images()))


def test_modules_made_in_forward() -> None:
    class Made(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Any:
            y = nn.ReLU(inplace=True)(self.conv(nn.ZeroPad2d(1)(x)))
            return nn.Softmax(1)(nn.Flatten(1)(nn.Upsample(scale_factor=2)(y)))

    gm = check_trace(Made(), images())
    assert targets(gm, "call_module") == ["conv"]


def test_a_hook_of_a_leaf_runs_once_and_one_of_a_block_is_in_the_graph() -> None:
    model: Any = randomise(nn.Sequential(conv(3, 4), nn.Sequential(conv(4, 4), nn.ReLU())))
    model[0].register_forward_hook(lambda module, given, result: result * 2)
    model[1].register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    model[1].register_forward_hook(lambda module, given, result: result - given[0])
    model.register_forward_pre_hook(lambda module, given: (given[0] * 3,))
    check_trace(model, images())


class Cast(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return x if bool((x.sum() > 0).item()) else x * 2


def test_a_float_leaf_without_weights_says_so() -> None:
    with pytest.warns(QatcWarning, match="it has no weights$"):
        trace(nn.Sequential(conv(3, 4), Cast()), images())
