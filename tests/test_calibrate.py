from collections.abc import Iterator
from typing import Any

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn

import qatc
from qatc.errors import CalibrationError, ConfigError
from qatc.nested import tensors
from qatc.quantizers import Quantizer
from tests.check_pass import evaluated
from tests.models import (
    Classifier,
    ResidualIdentity,
    conv,
    images,
    randomise,
)
from tests.prepared import every_config
from tests.signatures import Dataclasses, DictInDictOut, KeywordOnly, NamedTuples, NestedTuple, samples


@pytest.mark.parametrize(
    "batches",
    [
        [images()],
        iter([images()]),
        [(images(), torch.zeros(4))],
        [[images(), torch.zeros(4), "name"]],
        [{"x": images()}],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images(), torch.zeros(4)), batch_size=4),
    ],
    ids=["tensors", "iterator", "tuples", "lists", "dicts", "loader"],
)
def test_batches_may_be_tensors_tuples_lists_and_dicts(batches: Any) -> None:
    gm = qatc.prepare(randomise(Classifier()))
    qatc.calibrate(gm, batches, progress=False)
    expected = qatc.prepare(randomise(Classifier()))
    qatc.calibrate(expected, [images()], progress=False)
    assert torch.equal(evaluated(gm, [images()]), evaluated(expected, [images()]))


def test_a_model_of_two_inputs_takes_the_first_two_of_a_batch() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(6, 4)

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return self.conv(torch.cat([x, y], 1))

    gm = qatc.prepare(Two(), (images(), images(seed=1)))
    qatc.calibrate(gm, [(images(), images(seed=1), torch.zeros(4))], progress=False)
    assert gm.prepared_for is not None
    assert list(map(str, gm.prepared_for.inputs or ())) == ["x float32 [N, 3, 8, 8]", "y float32 [N, 3, 8, 8]"]


@pytest.mark.parametrize("kind", samples(0))
def test_batches_have_the_form_that_the_model_takes(kind: type[nn.Module]) -> None:
    gm, expected = (qatc.prepare(randomise(kind())) for _ in range(2))
    qatc.calibrate(gm, [samples(1)[kind]], progress=False)
    assert all(m.ready for m in gm.modules() if isinstance(m, Quantizer))
    batch = samples(1)[kind]
    batch = {**batch, "labels": torch.zeros(4)} if isinstance(batch, dict) and kind is not DictInDictOut else batch
    qatc.calibrate(expected, [batch], progress=False)
    assert gm.prepared_for == expected.prepared_for
    for key, value in gm.state_dict().items():
        assert torch.equal(value, expected.state_dict()[key])


@pytest.mark.parametrize("kind", [DictInDictOut, NestedTuple, Dataclasses, NamedTuples, KeywordOnly])
def test_tensors_in_containers_are_moved_to_the_models_device(kind: type[nn.Module]) -> None:
    """There is no device but the CPU to test on: a model of meta tensors fails on anything that is left behind."""
    seen: list[torch.device] = []
    gm = qatc.prepare(randomise(kind()), samples(0)[kind])
    gm.register_forward_pre_hook(
        lambda _, args, kwargs: seen.extend(t.device for _, t in tensors((args, kwargs))), with_kwargs=True
    )
    qatc.calibrate(gm, [samples(1)[kind]], progress=False)
    gm.to("meta")
    with pytest.raises(RuntimeError, match="meta tensors"):
        qatc.calibrate(gm, [samples(1)[kind]], progress=False)
    count = len(tensors(samples(1)[kind]))
    assert {str(d) for d in seen[:count]} == {"cpu"}
    assert {str(d) for d in seen[count:]} == {"meta"}


def test_a_dict_for_a_model_of_a_tensor_is_an_error_that_names_the_argument() -> None:
    gm = qatc.prepare(Classifier(), images())
    with pytest.raises(ConfigError) as caught:
        qatc.calibrate(gm, [{"image": images(), "label": torch.zeros(4)}], progress=False)
    assert str(caught.value) == snapshot("""\
the batch is a dict of ['image', 'label'], the model's argument x is a tensor
  try: name the key 'x', or pass batches as tensors or tuples\
""")


def test_calibration_moves_ranges_alone_and_restores_every_mode() -> None:
    model = randomise(ResidualIdentity())
    gm = qatc.prepare(model.train(), images())
    gm.get_submodule("stem.1").eval()  # a BatchNorm that the user froze
    modes = {name: m.training for name, m in gm.named_modules()}
    qatc.calibrate(gm, [images()], progress=False)
    assert {name: m.training for name, m in gm.named_modules()} == modes
    assert not any(m.recording for m in gm.modules() if isinstance(m, Quantizer))
    for key, value in model.state_dict().items():
        assert torch.equal(gm.state_dict()[key], value)


def test_modes_are_restored_when_a_batch_fails() -> None:
    gm = qatc.prepare(Classifier(), images())
    with pytest.raises(RuntimeError):
        qatc.calibrate(gm, [torch.zeros(1, 5, 8, 8)], progress=False)
    assert all(m.training for m in gm.modules())
    assert not any(m.recording for m in gm.modules() if isinstance(m, Quantizer))


def test_calibration_takes_as_many_batches_as_asked() -> None:
    seen = []

    def batches() -> Iterator[Tensor]:
        for seed in range(9):
            seen.append(seed)
            yield images(seed=seed)

    qatc.calibrate(qatc.prepare(Classifier()), batches(), steps=3, progress=False)
    assert seen == [0, 1, 2]


def test_calibration_says_what_is_wrong() -> None:
    gm = qatc.prepare(Classifier(), images())
    for batches, message in (
        (
            [],
            snapshot("""\
there was no batch to calibrate with
  try: pass a loader that yields batches\
"""),
        ),
        (
            [torch.full((1, 3, 8, 8), torch.nan)],
            snapshot("""\
the range of x_q is not finite
  try: look for NaN or infinity in the data and the weights\
"""),
        ),
    ):
        with pytest.raises(CalibrationError) as caught:
            qatc.calibrate(gm, batches, progress=False)
        assert str(caught.value) == message
    qatc.calibrate(gm, [images()], progress=False)
    with pytest.raises(CalibrationError, match="the range of x_q is not finite"):
        qatc.calibrate(gm, [torch.full((1, 3, 8, 8), torch.inf)], progress=False)
    with pytest.raises(CalibrationError, match="has no quantizers"):
        qatc.calibrate(Classifier(), [images()], progress=False)


@pytest.mark.parametrize(
    ("batches", "error", "said"),
    [
        (
            [images(), torch.empty(0, 3, 8, 8)],
            CalibrationError,
            "batch 1 has no samples\n  at: calibrate\n  try: leave it",
        ),
        ([None], ConfigError, "the batch has NoneType for x, which is a tensor"),
        ([images().numpy()], ConfigError, "the batch has ndarray for x, which is a tensor"),
        (
            images(),
            ConfigError,
            "one batch was passed, not several to go through\n  at: calibrate\n  try: put it in a list",
        ),
        ({"x": images()}, ConfigError, "one batch was passed"),
    ],
)
def test_what_is_no_batch_is_refused_by_name(batches: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        qatc.calibrate(qatc.prepare(Classifier(), images()), batches, progress=False)
    assert str(caught.value).startswith(said)


@every_config
def test_a_model_learns_ranges_without_calibration(config: str) -> None:
    gm = qatc.prepare(randomise(ResidualIdentity()), images(), config=config).train()
    gm(images())
    assert all(m.ready for m in gm.modules() if isinstance(m, Quantizer))
