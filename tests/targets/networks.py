"""Small networks with what targets treat differently, and the check of one: its placement, then the lowered file."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import qatc
from qatc.lowering import lowered_proto, verify
from qatc.targets import Target, target_of
from tests.models import conv, images, randomise


class Residuals(nn.Module):
    """A residual block whose skip is the input itself, and one with a convolution in it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = conv(3, 4), nn.BatchNorm2d(4)
        self.a1, self.a2 = conv(4, 4), conv(4, 4)
        self.b1, self.b2, self.down = conv(4, 8), conv(8, 8), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(self.a2(F.relu(self.a1(x))) + x)
        return F.relu(self.b2(F.relu(self.b1(x))) + self.down(x))


class Branches(nn.Module):
    """A concatenation of signed and unsigned branches, then squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 4), conv(3, 4)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.relu(self.a(x)), self.b(x)], 1)
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(self.pool(x)))))


class Activations(nn.Sequential):
    """Convolutions with activations that do more than clip."""

    def __init__(self) -> None:
        acts = (nn.SiLU(), nn.Hardswish(), nn.LeakyReLU(0.1), nn.GELU(), nn.Tanh(), nn.Hardsigmoid())
        super().__init__(*(m for act in acts for m in (nn.Conv2d(3, 3, 1), act)))


class Convolutions(nn.Sequential):
    """Grouped, depthwise and transposed convolutions, and a Linear."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3, groups=3), nn.ReLU6(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.BatchNorm2d(6),
            nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(576, 5),
        )  # fmt: skip


class Attention(nn.Module):
    """One head over positions: LayerNorm, the products, softmax, a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 8, 2, stride=2), nn.LayerNorm(8)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        scores = torch.softmax(self.q(y) @ self.k(y).transpose(1, 2), -1)
        out: Tensor = x + self.out(scores @ self.v(y))
        return out


class Sizes(nn.Module):
    """Pools, resizes, a border of zeros, a part, a BatchNorm of its own, a spatial mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = conv(3, 4), conv(4, 4), conv(4, 4)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(F.max_pool2d(self.first(x), 2)))
        x = self.second(F.interpolate(x, scale_factor=2.0))
        x = F.avg_pool2d(F.interpolate(x, scale_factor=2.0, mode="bilinear"), 2)
        x = self.third(F.pad(x[:, :, 1:], (1, 1, 1, 1)))
        return x.mean((2, 3))


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "residuals": Residuals, "branches": Branches, "activations": Activations, "convolutions": Convolutions,
    "attention": Attention, "sizes": Sizes,
}  # fmt: skip


def placed(name: str, target: str | Target, config: str = "w8a8") -> qatc.PreparedModel:
    """Return a network prepared and calibrated."""
    torch.manual_seed(0)
    gm = qatc.prepare(randomise(NETWORKS[name]()), images(), target, config)
    qatc.calibrate(gm, [images(seed=1)], progress=False)
    return gm


def check_target(target: str, name: str, expect: str) -> None:
    """Check where a target has its grids, and that the file computes what was simulated, free scales or not."""
    gm = placed(name, target)
    assert str(gm.report).partition("\nfound: ")[0] == expect
    free = target_of(target).pow2 is False
    for model, exact in ((gm, not free), *(((placed(name, target, "w8a8-pow2"), True),) if free else ())):
        data = {gm_input(model): images(seed=2).numpy()}
        check = verify(model, lowered_proto(model), data, runtime="onnxruntime-unoptimized")
        assert check.passed, str(check)
        assert check.exact is exact
        assert check.codes > 500


def gm_input(model: qatc.PreparedModel) -> str:
    """Return the name of the network's only input."""
    return next(str(node.target) for node in model.graph.nodes if node.op == "placeholder")
