"""SyncBatchNorm, put in before or behind `prepare`; of one process, since torch synchronizes it on GPUs alone."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import qatc
from tests.check_pass import evaluated
from tests.models import conv, images, randomise


class Both(nn.Module):
    """A BatchNorm that a convolution takes in, and one that none does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.alone = conv(3, 4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Any:
        return self.alone(self.bn(self.conv(x)).relu())


def steps(gm: nn.Module) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(gm.train().parameters(), 1e-2)
    for seed in range(3):
        optimizer.zero_grad()
        (gm(images(seed=seed)) * images(4, 4, 8, 8, seed=9)).sum().backward()
        optimizer.step()
    return gm.state_dict()


def calibrated(model: nn.Module) -> Any:
    gm = qatc.prepare(model, images())
    qatc.calibrate(gm, [images()], progress=False)
    return gm


def test_converted_before_it_is_fused_as_a_batch_norm_is(tmp_path: Path) -> None:
    plain = calibrated(randomise(Both()))
    gm = calibrated(nn.SyncBatchNorm.convert_sync_batchnorm(randomise(Both())))
    assert [row.quantized for row in gm.report.rows] == [row.quantized for row in plain.report.rows]
    assert isinstance(gm.bn, nn.SyncBatchNorm)
    assert isinstance(gm.alone, nn.SyncBatchNorm)
    expected = steps(plain)
    for name, value in steps(gm).items():
        assert torch.equal(value, expected[name]), name
    qatc.save(gm, tmp_path / "model.pt")
    again = qatc.load(tmp_path / "model.pt").eval()
    assert torch.equal(evaluated(again, [images(seed=3)]), evaluated(plain.eval(), [images(seed=3)]))
    lowered = qatc.lower(gm, tmp_path / "model.onnx")
    assert "BatchNormalization" not in {node.op_type for node in lowered.proto.graph.node}


def test_converted_behind_prepare_the_layers_that_took_one_in_train_on() -> None:
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU())
    plain = calibrated(randomise(model))
    gm: Any = nn.SyncBatchNorm.convert_sync_batchnorm(calibrated(randomise(model)))
    assert isinstance(gm.get_submodule("1"), nn.SyncBatchNorm)
    expected = steps(plain)
    for name, value in steps(gm).items():
        assert torch.equal(value, expected[name]), name
    assert torch.equal(evaluated(gm.eval(), [images(seed=3)]), evaluated(plain.eval(), [images(seed=3)]))
