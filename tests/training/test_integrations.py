"""The callbacks with the real libraries."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import qatc
from qatc.errors import QatcError
from qatc.modules.fused import Fused
from qatc.prepared import PreparedModel
from qatc.quantizers import Quantizer
from tests.check_pass import evaluated
from tests.models import ConvBnAct, images, randomise
from tools.models import torchvision_models

torchvision_models()  # both libraries import torchvision, whose own operators may not load beside a CPU build of torch

# theirs, of their own use of Python and torch
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = ConvBnAct(bn=nn.BatchNorm2d(4), act=nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.block(x).mean((2, 3)))


def data() -> TensorDataset:
    return TensorDataset(images(16, 3, 8, 8), torch.arange(16) % 2)


def frozen(gm: nn.Module) -> tuple[bool, bool]:
    """Return whether statistics, and whether ranges are frozen."""
    bn = {m.bn_frozen for m in gm.modules() if isinstance(m, Fused)}
    ranges = {not m.observing for m in gm.modules() if isinstance(m, Quantizer)}
    assert len(bn) == len(ranges) == 1
    return bn.pop(), ranges.pop()


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def lightning(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


def task(lightning: Any, network: nn.Module, seen: list[tuple[bool, bool]]) -> Any:
    class Task(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = network

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            seen.append(frozen(self.model))
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
            self.log("loss", F.cross_entropy(self.model(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-2)

    return Task()


def trainer(lightning: Any, folder: Path, epochs: int, callback: Any) -> Any:
    return lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", devices=1, logger=False, callbacks=[callback], default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def test_lightning_prepares_calibrates_freezes_and_saves(lightning: Any, tmp_path: Path) -> None:
    from qatc.integrations.lightning import QATCallback  # noqa: PLC0415

    seen: list[tuple[bool, bool]] = []
    loader, path = DataLoader(data(), 4), tmp_path / "model.pt"
    module = task(lightning, randomise(Net()), seen)
    callback = QATCallback(
        example_inputs=images(),
        config="w8a8-pow2",
        schedule=qatc.Schedule(freeze_bn=0.5, freeze_ranges=0.75),
        save=path,
    )
    trainer(lightning, tmp_path, 2, callback).fit(module, loader, loader)
    assert seen == [(False, False)] * 4 + [(True, False)] * 2 + [(True, True)] * 2
    assert isinstance(module.model, PreparedModel)
    module.cpu()
    assert torch.equal(evaluated(qatc.load(path), [images(seed=3)]), evaluated(module.model, [images(seed=3)]))


def test_lightning_resumes_with_the_ranges_of_the_checkpoint(lightning: Any, tmp_path: Path) -> None:
    from qatc.integrations.lightning import QATCallback  # noqa: PLC0415

    loader = DataLoader(data(), 4)
    whole, half, resumed = (task(lightning, randomise(Net()), []) for _ in range(3))
    given: dict[str, Any] = {"example_inputs": images(), "schedule": qatc.Schedule(freeze_bn=3, freeze_ranges=4)}
    trainer(lightning, tmp_path, 2, QATCallback(**given)).fit(whole, loader)
    first = trainer(lightning, tmp_path, 1, QATCallback(**given))
    first.fit(half, loader)
    first.save_checkpoint(tmp_path / "half.ckpt")
    nothing = QATCallback(**given, batches=())  # that it does not calibrate again
    trainer(lightning, tmp_path, 2, nothing).fit(resumed, loader, ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def hugging_face(model: nn.Module, folder: Path, callback: Any, **given: Any) -> Any:
    transformers = importlib.import_module("transformers")
    arguments = transformers.TrainingArguments(
        folder, use_cpu=True, per_device_train_batch_size=4, max_steps=8, report_to=[], disable_tqdm=True,
        learning_rate=1e-2, save_steps=4, label_names=["labels"], **given,
    )  # fmt: skip
    rows = [{"x": x, "labels": label} for x, label in zip(*data().tensors, strict=True)]
    return transformers.Trainer(
        model, arguments, train_dataset=rows, callbacks=[callback],
        compute_loss_func=lambda out, labels, **_: F.cross_entropy(out.float(), labels),
    )  # fmt: skip


@pytest.mark.parametrize("bf16", [False, True])
def test_the_hugging_face_trainer_calibrates_freezes_and_saves(bf16: bool, tmp_path: Path) -> None:
    from qatc.integrations.huggingface import QATCallback  # noqa: PLC0415

    seen: list[tuple[bool, bool]] = []
    gm = qatc.prepare(randomise(Net()), {"x": images()})
    gm.register_forward_pre_hook(lambda model, _: seen.append(frozen(model)) if model.training else None)
    path = tmp_path / "model.pt"
    callback = QATCallback(schedule=qatc.Schedule(freeze_bn=0.5, freeze_ranges=0.75), save=path)
    hugging_face(gm, tmp_path, callback, bf16=bf16).train()
    assert seen == [(False, False)] * 4 + [(True, False)] * 2 + [(True, True)] * 2
    saved, out = qatc.load(path), evaluated(gm, [images(seed=3)])
    assert all(torch.equal(value, gm.state_dict()[name]) for name, value in saved.state_dict().items())
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):  # accelerate leaves it on the model
        assert torch.equal(evaluated(saved, [images(seed=3)]).float(), out)


def test_the_hugging_face_trainer_resumes(tmp_path: Path) -> None:
    from qatc.integrations.huggingface import QATCallback  # noqa: PLC0415

    ends = []
    for resume in (False, True):
        gm = qatc.prepare(randomise(Net()), {"x": images()})
        callback = QATCallback(batches=() if resume else None)  # that it does not calibrate again
        found = hugging_face(gm, tmp_path, callback)
        found.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4") if resume else None)
        ends.append(gm.state_dict())
    for name, value in ends[0].items():
        assert torch.equal(ends[1][name], value), name


def test_the_hugging_face_trainer_is_told_of_a_float_model(tmp_path: Path) -> None:
    from qatc.integrations.huggingface import QATCallback  # noqa: PLC0415

    with pytest.raises(QatcError, match="is a Net, not a prepared one"):
        hugging_face(Net(), tmp_path, QATCallback()).train()
