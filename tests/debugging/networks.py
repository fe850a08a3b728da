"""Networks with layers that can be spoilt one by one."""

import torch
from torch import Tensor, nn

import qatc
from qatc.config import LayerConfig, QConfig
from qatc.prepared import PreparedModel
from tests.models import images, randomise


class Residual(nn.Module):
    """Convolutions with BatchNorms, a residual sum, a convolution without one, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.norm_a = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.b(torch.relu(self.norm_a(self.a(x)))))
        result: Tensor = self.head(torch.relu(self.hidden(x.mean((2, 3)))))
        return result


class Two(nn.Module):
    """Two inputs in a container and by itself, two outputs in a dict, one of them of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, pair: tuple[Tensor, Tensor], shift: Tensor) -> dict[str, Tensor]:
        y = self.left(pair[0]) + self.right(pair[1]) * shift
        return {"y": y, "best": y.argmax(1)}


def fixed(*rules: qatc.Rule, bits: int = 8) -> QConfig:
    """Return a configuration whose ranges are those that calibration found."""
    widths = LayerConfig(weight_bits=bits, activation_bits=bits, activation_quantizer="fixed")
    return QConfig(widths, rules)


def batches(count: int = 2) -> list[Tensor]:
    return [images(8, 3, 6, 6, seed=seed) for seed in range(count)]


def ready(config: QConfig, model: nn.Module | None = None) -> PreparedModel:
    """Return a prepared and calibrated network with seeded weights."""
    made = randomise(Residual()) if model is None else model
    gm = qatc.prepare(made.eval(), batches()[0], config=config)
    qatc.calibrate(gm, batches(), progress=False)
    return gm
