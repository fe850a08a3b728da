import copy
from typing import Any

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.errors import CalibrationError
from qatc.layers import layers_of
from tests.check_pass import evaluated
from tests.models import Classifier, Concat, ResidualIdentity, SharedBatchNorm, conv, images, randomise
from tests.prepared import every_target

BATCHES = [images(seed=1), images(6, 3, 8, 8, seed=2)]
LOW = qatc.QConfig(qatc.LayerConfig(weight_bits=3))


def low_bits(model: nn.Module, target: str = "onnxruntime") -> Any:
    """Return the model with weights of so few bits that means are off; its biases lie on far finer grids."""
    gm = qatc.prepare(randomise(model), images(), target, LOW)
    qatc.calibrate(gm, BATCHES, progress=False)
    return gm


def layer_means(gm: Any) -> dict[str, Tensor]:
    """Return the mean of each layer's output channels before the activation, over the batches."""
    seen: dict[str, list[Tensor]] = {}
    activations = {layer.name: layer.module.activation for layer in layers_of(gm)}
    hooks = []
    for layer in layers_of(gm):
        layer.module.activation = None

        def hook(_: Any, __: Any, y: Tensor, name: str = layer.name) -> Tensor:
            axis = gm.get_submodule(name).output_axis
            seen.setdefault(name, []).append(y.double().movedim(axis, 0).flatten(1))
            activation = activations[name]
            return y if activation is None else activation(y)

        hooks.append(layer.module.register_forward_hook(hook))
    for batch in BATCHES:
        evaluated(gm, [batch])
    for handle in hooks:
        handle.remove()
    for layer in layers_of(gm):
        layer.module.activation = activations[layer.name]
    return {name: torch.cat(rows, 1).mean(1) for name, rows in seen.items()}


@every_target
@pytest.mark.parametrize("kind", [ResidualIdentity, Classifier, Concat])
def test_every_layers_mean_becomes_that_of_the_float_model(kind: Any, target: str) -> None:
    gm = low_bits(kind(), target)
    with qatc.float_mode(gm):
        expected = layer_means(gm)
    before = layer_means(gm)
    result = qatc.correct_biases(gm, BATCHES, progress=False)
    assert [corrected.layer for corrected in result] == list(expected)
    after = layer_means(gm)
    for layer in layers_of(gm):
        # half a step of the bias, which lies on a grid of its own
        module: Any = layer.module
        grid = module.weight_quantizer.grid(*layer.folded()[::2], None)
        step = float((grid.scale.detach() * module.input_scale(layer.grid)).max())
        error = (after[layer.name] - expected[layer.name]).abs().max()
        assert error <= 0.5 * step + 1e-5, layer.name
        assert (before[layer.name] - expected[layer.name]).abs().max() > 4 * error


def test_a_running_mean_takes_the_correction_so_that_training_is_as_it_was() -> None:
    gm = low_bits(ResidualIdentity())
    before = copy.deepcopy(gm)
    qatc.correct_biases(gm, BATCHES, progress=False)
    moved = {
        name
        for (name, new), old in zip(gm.state_dict().items(), before.state_dict().values(), strict=True)
        if not torch.equal(new, old)
    }
    assert moved == {"stem.1.running_mean", "conv1.bias", "conv2.bias", "head.bias"}
    x, stem, other = images(seed=5), gm.get_submodule("stem.0").train(), before.get_submodule("stem.0").train()
    trained, expected = (m.get_submodule("stem.1").train() for m in (gm, before))
    assert torch.equal(stem(x, trained), other(x, expected))


def test_what_has_no_bias_or_shares_it_is_left_and_named() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 4, bias=False), conv(4, 4)

        def forward(self, x: Tensor) -> Any:
            return self.b(self.a(x))

    gm = low_bits(Bare())
    bare, _ = qatc.correct_biases(gm, BATCHES, progress=False)
    assert bare.why == snapshot("left, it has no bias:")
    shared = qatc.correct_biases(low_bits(SharedBatchNorm()), BATCHES, progress=False)
    assert {corrected.why for corrected in shared} == snapshot({"left, its bias is that of another layer too:"})


def test_it_is_an_error_without_ranges_or_batches() -> None:
    gm = qatc.prepare(randomise(Classifier()), images())
    with pytest.raises(CalibrationError, match="has no range"):
        qatc.correct_biases(gm, BATCHES, progress=False)
    with pytest.raises(CalibrationError, match="no batch"):
        qatc.correct_biases(low_bits(Classifier()), [], progress=False)


def test_inputs_by_name_and_a_models_mode_are_kept() -> None:
    gm, other = low_bits(Classifier()).train(), low_bits(Classifier())
    qatc.correct_biases(gm, [{"x": batch, "labels": None} for batch in BATCHES], progress=False)
    qatc.correct_biases(other, BATCHES, progress=False)
    assert gm.training
    assert torch.equal(evaluated(gm, [images()]), evaluated(other, [images()]))
